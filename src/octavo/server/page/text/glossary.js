// The glossary dialog. Its text is glossary.md, a copy of docs/glossary.md: a test keeps the two equal.

import { getGlossary } from "../lib/api.js";
import { setText } from "../lib/dom.js";
import { update } from "./markdown.js";

/** nodes: { dialog, body, opener, close }. The text is fetched when the dialog first opens. */
export class Glossary {
  constructor(nodes) {
    Object.assign(this, nodes);
    this.opener.addEventListener("click", () => this.open());
    this.close.addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  async open() {
    this.dialog.showModal();
    if (this.body.blocks) return; // already there
    try {
      update(this.body, withoutTitle(await getGlossary()));
    } catch (error) {
      setText(this.body, error.message);
    }
  }
}

/** The dialog has a title of its own. */
const withoutTitle = (text) => text.replace(/^# .*\n/, "");
