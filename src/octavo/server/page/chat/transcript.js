// The conversation on screen.

import { el } from "../lib/dom.js";
import { Answer } from "./answer.js";
import { openCalls } from "./messages.js";
import { question } from "./question.js";

const NEAR = 48; // px from the end within which the reader is taken to follow along
const OPENED = ".edit, summary:focus"; // what the reader has just opened must not move away

/** nodes: { scroller, messages, welcome, toLatest, system }. actions: as Answer's, edit(message, text) and editSystem(). */
export class Transcript {
  constructor(nodes, actions) {
    Object.assign(this, nodes, { actions });
    this.following = true;
    this.answers = [];
    this.scroller.addEventListener("scroll", () => this.noteScroll(), { passive: true });
    this.toLatest.addEventListener("click", () => this.follow());
    this.system.addEventListener("click", () => actions.editSystem());
    // A growing answer, or a smaller window, must not carry the last line out of sight.
    const sizes = new ResizeObserver(() => this.following && !this.messages.querySelector(OPENED) && this.jump());
    sizes.observe(this.messages);
    sizes.observe(this.scroller);
  }

  /** writing: the answer among the messages that is being written, if one is. Returns its view. */
  show(messages, writing = null) {
    this.answers = [];
    this.messages.replaceChildren();
    this.welcome.hidden = messages.length > 0;
    let view = null;
    for (const message of messages) {
      const made = this.add(message);
      if (message !== writing) continue;
      view = made;
      view.open();
    }
    if (!view) this.answers.at(-1)?.offerResults(openCalls(messages));
    this.follow();
    return view;
  }

  showSystem(text) {
    this.system.hidden = !text;
    this.system.replaceChildren(el("b", {}, "System prompt"), ` ${text}`);
  }

  /** Returns the view of an answer. */
  add(message) {
    this.welcome.hidden = true;
    if (message.role === "tool") {
      this.answers.findLast((answer) => answer.setResult(message));
      return null;
    }
    if (message.role === "user") {
      this.messages.append(question(message, (text) => this.actions.edit(message, text)));
      return null;
    }
    const answer = new Answer(message, this.actions);
    this.answers.push(answer);
    this.messages.append(answer.node);
    return answer;
  }

  get visible() {
    return this.scroller.offsetParent !== null;
  }

  noteScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    this.following = scrollHeight - scrollTop - clientHeight < NEAR;
    this.toLatest.hidden = this.following;
  }

  follow() {
    this.following = true;
    this.jump();
  }

  jump() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.toLatest.hidden = true;
  }
}
