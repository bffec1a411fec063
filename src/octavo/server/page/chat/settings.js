// What the user may set. An empty field is not sent, so the server's default holds. A wrong one is shown before anything is sent.

import { load, loadForTab, save, saveForTab } from "../lib/store.js";

const NUMBERS = [
  "temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty",
];
const DEFAULTS = {
  ...Object.fromEntries(NUMBERS.map((name) => [name, ""])),
  system: "", temperature: "0.7", top_p: "0.95", max_tokens: "1024", stop: "", tools: "",
};
const ESCAPES = { n: "\n", t: "\t", "\\": "\\" };

/** nodes: { dialog, form, close, reset, keyProblem }. onKey(): the API key is another. onSystem(text): the system prompt is. */
export class Settings {
  constructor(nodes, { onKey, onSystem }) {
    Object.assign(this, nodes, { onKey, onSystem });
    this.values = { ...DEFAULTS, ...load("settings", {}) };
    this.fill({ ...this.values, key: loadForTab("key", "") });
    this.oldKey = this.key;
    this.form.addEventListener("input", ({ target }) => this.keep(target.name));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.dialog.close();
    });
    this.dialog.addEventListener("close", () => this.settle());
    this.close.addEventListener("click", () => this.dialog.close());
    this.reset.addEventListener("click", () => this.restore());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  get key() {
    return this.form.elements.key.value.trim();
  }

  /** The system prompt that new chats begin with: the one written last. */
  get system() {
    return this.values.system.trim();
  }

  /** name: the field to begin with. */
  open(name) {
    if (!this.dialog.open) this.dialog.showModal();
    const field = name && this.form.elements[name];
    field?.closest("details")?.setAttribute("open", "");
    field?.focus();
  }

  /** The server wants a key, or another one. */
  askForKey() {
    this.keyProblem.textContent = this.key ? "The server does not know this key." : "This server needs an API key.";
    this.keyProblem.hidden = false;
    this.open("key");
  }

  settle() {
    this.keyProblem.hidden = true;
    if (this.key === this.oldKey) return;
    this.oldKey = this.key;
    this.onKey();
  }

  restore() {
    this.fill(DEFAULTS);
    for (const name of Object.keys(DEFAULTS)) this.keep(name);
  }

  /** Shows the system prompt of the chat that is on screen. */
  showSystem(text) {
    this.form.elements.system.value = text;
  }

  fill(values) {
    for (const [name, value] of Object.entries(values)) {
      const field = this.form.elements[name];
      if (field) field.value = value;
    }
    this.checkTools();
  }

  keep(name) {
    const { value } = this.form.elements[name];
    if (name === "key") {
      saveForTab("key", value.trim());
      return;
    }
    if (name === "tools") this.checkTools();
    if (name === "system") this.onSystem(value.trim());
    this.values[name] = value;
    save("settings", this.values);
  }

  checkTools() {
    const field = this.form.elements.tools;
    try {
      readTools(field.value);
      field.setCustomValidity("");
    } catch (error) {
      field.setCustomValidity(error.message);
    }
  }

  /** Whether all fields are right. If not, shows the one that is wrong. */
  check() {
    const wrong = [...this.form.elements].find((field) => field.willValidate && !field.validity.valid);
    if (!wrong) return true;
    this.open(wrong.name);
    wrong.reportValidity();
    return false;
  }

  /** As a request has them. */
  sampling() {
    const fields = NUMBERS.map((name) => this.form.elements[name]).filter((field) => field.value !== "");
    const stop = readStop(this.form.elements.stop.value);
    return { ...Object.fromEntries(fields.map((field) => [field.name, field.valueAsNumber])), ...(stop.length && { stop }) };
  }

  tools() {
    const tools = readTools(this.form.elements.tools.value);
    return tools.length ? { tools } : {};
  }
}

/** One stop string a line; \n, \t and \\ stand for what a line cannot hold. */
export function readStop(text) {
  const lines = text.split("\n").filter((line) => line !== "");
  return lines.map((line) => line.replace(/\\([nt\\])/g, (_, mark) => ESCAPES[mark]));
}

/** A JSON list of tools in OpenAI's form, or of their functions alone. Throws an error that says what is wrong. */
export function readTools(text) {
  if (!text.trim()) return [];
  let tools;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    throw new Error(`Tools: this is not JSON (${error.message}).`);
  }
  if (!Array.isArray(tools)) throw new Error("Tools: a list in square brackets is needed.");
  return tools.map((tool) => {
    const given = tool?.function ?? tool;
    if (typeof given?.name !== "string" || !given.name) throw new Error("Tools: each one needs a name.");
    return { type: "function", function: given };
  });
}
