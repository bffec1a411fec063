// Calls of tools: what the model asks for, and what the user says came of it. The page runs no tool itself.

import { el } from "../lib/dom.js";
import { coloured } from "../text/syntax.js";
import { term } from "../text/terms.js";

/** call: as in a message's tool_calls; it may still grow. */
export class CallCard {
  constructor(call) {
    this.call = call;
    this.name = el("code", {});
    this.given = el("code", {});
    this.shown = null;
    this.below = el("div", { class: "call-below" });
    const head = el("p", { class: "call-head" }, term("Tool call", "tool call"), " ", this.name);
    this.node = el("section", { class: "call", "aria-label": "Tool call" }, head, block("Arguments", this.given), this.below);
  }

  draw() {
    const { name, arguments: given } = this.call.function;
    if (this.shown === name + given) return;
    this.shown = name + given;
    this.name.textContent = name;
    this.given.replaceChildren(...coloured(indented(given), "json"));
  }

  settle(content) {
    const code = el("code", {}, ...coloured(indented(content), "json"));
    this.below.replaceChildren(el("p", { class: "call-head" }, "Result"), block("Result", code));
  }

  ask() {
    this.field = el("textarea", { rows: "2", placeholder: "What the tool returned", spellcheck: "false" });
    this.below.replaceChildren(el("label", { class: "field" }, `Result of ${this.call.function.name}`, this.field));
  }
}

/** tabindex: a block that scrolls must be reachable by keyboard. */
const block = (name, code) => el("pre", { tabindex: "0", "aria-label": name }, code);

/** Asks for the results of all cards. onDone([{ id, content }]). The cards show their fields; the form has the button. */
export function resultsForm(cards, onDone) {
  for (const card of cards) card.ask();
  const send = el("button", { type: "submit", class: "primary" }, cards.length > 1 ? "Send results" : "Send result");
  const form = el("form", { class: "results" }, send);
  const submit = () => onDone(cards.map(({ call, field }) => ({ id: call.id, content: field.value })));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  for (const { field } of cards) {
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      submit();
    });
  }
  return form;
}

/** JSON with line breaks, other text as it is. */
function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
