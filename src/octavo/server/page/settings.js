// What the user may set. An empty field is not sent, so the server's default holds.

import { load, loadForTab, save, saveForTab } from "./store.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const DEFAULTS = { system: "", temperature: "0.7", top_p: "0.95", max_tokens: "1024", seed: "" };

/** nodes: { dialog, form, close, reset }. onKey: the API key is another. */
export class Settings {
  constructor(nodes, onKey) {
    Object.assign(this, nodes);
    this.onKey = onKey;
    this.fill({ ...DEFAULTS, ...load("settings", {}), key: loadForTab("key", "") });
    this.form.addEventListener("input", () => this.keep());
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

  get system() {
    return this.form.elements.system.value.trim();
  }

  open(name) {
    this.oldKey = this.key;
    this.dialog.showModal();
    if (name) this.form.elements[name].focus();
  }

  settle() {
    if (this.key !== this.oldKey) this.onKey();
  }

  restore() {
    this.fill(DEFAULTS);
    this.keep();
  }

  fill(values) {
    for (const [name, value] of Object.entries(values)) {
      const field = this.form.elements[name];
      if (field) field.value = value;
    }
  }

  keep() {
    const { key, ...rest } = Object.fromEntries(new FormData(this.form));
    save("settings", rest);
    saveForTab("key", key.trim());
  }

  /** The numbers as a request has them; a field that is empty or wrong is left out. */
  sampling() {
    const fields = NUMBERS.map((name) => this.form.elements[name]);
    const sound = fields.filter((field) => field.value !== "" && field.validity.valid);
    return Object.fromEntries(sound.map((field) => [field.name, field.valueAsNumber]));
  }
}
