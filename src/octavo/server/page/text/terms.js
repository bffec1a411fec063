// Words that explain themselves: on hover, on focus and on a tap a tip says what the glossary says.

import { getGlossary } from "../lib/api.js";
import { el } from "../lib/dom.js";

const ENTRY = /^- \*\*(.+?)\*\*(?:, (.+?))?: (.+)$/gm;
const EDGE = 8; // px that the tip keeps from the window's edge

/** A word on screen. name: the glossary's, in small letters. */
export const term = (text, name) => el("span", { class: "term", tabindex: "0", "data-term": name }, text);

/** The same with a text of its own. */
export const explained = (text, tip) => el("span", { class: "term", tabindex: "0", "data-tip": tip }, text);

/** Map of names to texts from the Markdown of the glossary. "**A, B**: text" explains both. */
export function entries(markdown) {
  const found = [...markdown.matchAll(ENTRY)].flatMap(([, names, long, text]) =>
    names.split(", ").map((name) => [name.toLowerCase(), long ? `${capital(long)}. ${capital(text)}` : capital(text)]),
  );
  return new Map(found);
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);

/** node: the tip, a popover. Explains every .term of the page. */
export class Terms {
  constructor(node) {
    this.node = node;
    this.word = null;
    for (const event of ["pointerover", "focusin", "click"]) document.addEventListener(event, (each) => this.over(each));
    for (const event of ["pointerout", "focusout"]) document.addEventListener(event, (each) => this.out(each));
    addEventListener("scroll", () => this.hide(), { capture: true, passive: true });
    this.byKeyboard = false;
    document.addEventListener("pointerdown", () => (this.byKeyboard = false), { capture: true });
    document.addEventListener("keydown", ({ key }) => {
      this.byKeyboard = true;
      if (key === "Escape") this.hide();
    });
  }

  over({ type, target }) {
    // Whoever comes to a field with the keyboard reads what its label would say on hover.
    const label = type === "focusin" && this.byKeyboard ? target.closest?.("label") : null;
    const word = target.closest?.(".term") ?? label?.querySelector(".term");
    if (word && word !== this.word) this.show(word);
  }

  out({ target, relatedTarget }) {
    if (target.closest?.(".term, label") && relatedTarget !== this.node) this.hide();
  }

  async show(word) {
    this.hide();
    this.word = word;
    const text = word.dataset.tip ?? (await this.look(word.dataset.term));
    if (!text || word !== this.word || !word.isConnected) return;
    this.node.textContent = text;
    word.setAttribute("aria-describedby", this.node.id);
    this.node.showPopover();
    this.place(word.getBoundingClientRect());
  }

  async look(name) {
    try {
      return entries(await getGlossary()).get(name);
    } catch {
      return null; // the server is gone
    }
  }

  place(at) {
    const { offsetWidth: width, offsetHeight: height } = this.node;
    const below = at.bottom + 6 + height < innerHeight - EDGE;
    this.node.style.left = `${Math.max(EDGE, Math.min(innerWidth - EDGE - width, at.left))}px`;
    this.node.style.top = `${below ? at.bottom + 6 : Math.max(EDGE, at.top - 6 - height)}px`;
  }

  hide() {
    this.word?.removeAttribute("aria-describedby");
    this.word = null;
    if (this.node.matches(":popover-open")) this.node.hidePopover();
  }
}
