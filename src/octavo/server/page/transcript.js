// The conversation on screen.

import { copyButton, el } from "./dom.js";
import { update } from "./markdown.js";

const NEAR = 48; // px from the end within which the reader is taken to follow along

/** nodes: { scroller, messages, welcome, toLatest }. onRetry: the user wants the last answer again. */
export class Transcript {
  constructor(nodes, onRetry) {
    Object.assign(this, nodes);
    this.onRetry = onRetry;
    this.following = true;
    this.scroller.addEventListener("scroll", () => this.noteScroll(), { passive: true });
    this.toLatest.addEventListener("click", () => this.follow());
    // A growing answer, or a smaller window, must not carry the last line out of sight.
    const sizes = new ResizeObserver(() => this.following && this.jump());
    sizes.observe(this.messages);
    sizes.observe(this.scroller);
  }

  show(messages) {
    this.messages.replaceChildren();
    this.welcome.hidden = messages.length > 0;
    for (const message of messages) message.role === "user" ? this.addUser(message) : this.addAnswer(message).end();
    this.follow();
  }

  addUser({ content }) {
    this.welcome.hidden = true;
    this.messages.append(el("article", { class: "message user", "aria-label": "You" }, content));
    this.follow();
  }

  /** An answer that is being written: { grow(), end(), fail(error, actions) }, which read `message`. */
  addAnswer(message) {
    const text = el("div", { class: "text" });
    const article = el("article", { class: "message answer writing", "aria-label": "Answer", "aria-busy": "true" }, text);
    this.messages.append(article);
    let frame = 0;
    const draw = () => {
      frame = 0;
      update(text, message.content);
    };
    const close = (...below) => {
      cancelAnimationFrame(frame);
      draw();
      article.classList.remove("writing");
      article.setAttribute("aria-busy", "false");
      article.append(...below);
    };
    return {
      grow: () => (frame ||= requestAnimationFrame(draw)),
      end: () => close(this.foot(message)),
      fail: (error, action) => close(this.problem(error, action)),
    };
  }

  foot(message) {
    const note = el("span", { class: "note" }, message.note ?? "");
    return el("footer", {}, copyButton(() => message.content), this.retryButton("Again"), note);
  }

  problem(error, action) {
    const hint = error.retryAfter ? ` Try again in ${Math.ceil(error.retryAfter)} s.` : "";
    const buttons = el("div", { class: "actions" }, this.retryButton("Try again"), action);
    return el("div", { class: "problem", role: "alert" }, el("p", {}, error.message + hint), buttons);
  }

  retryButton(label) {
    return el("button", { type: "button", class: "plain small retry", onclick: () => this.onRetry() }, label);
  }

  dropAnswer() {
    this.messages.lastElementChild?.remove();
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
