// What is wrong with the server, above everything else, for as long as it is.

import { button, el } from "./dom.js";

/** node: shows the problem of the first source that has one. */
export class Banner {
  constructor(node) {
    this.node = node;
    this.problems = new Map(); // source -> { text, label, act }
    this.shown = "";
  }

  /** text: "" where all is well. label, act(): a button. */
  set(source, text, label = null, act = null) {
    if (text) this.problems.set(source, { text, label, act });
    else this.problems.delete(source);
    this.draw();
  }

  draw() {
    const [first] = this.problems.values();
    const text = first?.text ?? "";
    this.node.hidden = !first;
    if (text === this.shown) return; // an alert that is set anew is read aloud anew
    this.shown = text;
    const action = first?.act ? [button(first.label, first.act)] : [];
    this.node.replaceChildren(el("p", {}, text), ...action);
  }
}
