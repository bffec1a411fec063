// A short message at the foot of the page, with something to do about it: "Deleted. Undo".

import { button, el, icon } from "./dom.js";

const SECONDS = 10;

/** node: shows one notice at a time. It waits while the pointer or the focus is on it. */
export class Notices {
  constructor(node) {
    this.node = node;
    this.timer = null;
    for (const event of ["pointerenter", "focusin"]) node.addEventListener(event, () => clearTimeout(this.timer));
    for (const event of ["pointerleave", "focusout"]) node.addEventListener(event, () => this.wait());
  }

  /** act(): what the button `label` does. */
  show(text, label = null, act = null) {
    const doIt = () => {
      this.hide();
      act();
    };
    const naming = { type: "button", class: "icon", "aria-label": "Dismiss" };
    const close = el("button", { ...naming, onclick: () => this.hide() }, icon("close"));
    this.hide();
    this.node.replaceChildren(el("p", {}, text), ...(act ? [button(label, doIt)] : []), close);
    this.node.showPopover(); // in the top layer, above an open drawer
    this.wait();
  }

  wait() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.hide(), SECONDS * 1000);
  }

  hide() {
    clearTimeout(this.timer);
    if (this.node.matches(":popover-open")) this.node.hidePopover();
  }
}
