// One answer on screen: reasoning (folded), text, calls of tools, and what is below them.

import { button, copyButton, el, setText } from "../lib/dom.js";
import { seconds } from "../lib/format.js";
import { update } from "../text/markdown.js";
import { term } from "../text/terms.js";
import { CallCard, resultsForm } from "./calls.js";

// The words of a note that the glossary explains.
const TERMS = [
  [/ cached$/, "prefix cache"],
  [/^first token/, "ttft"],
  [/tokens\/s$/, "throughput"],
  [/^[\d,]+\stokens?$/, "token"],
];

/** actions: { retry(), results([{ id, content }]), help(message): a button for an error, or null }. */
export class Answer {
  constructor(message, actions) {
    Object.assign(this, { message, actions });
    this.text = el("div", { class: "text" });
    this.calls = el("div", { class: "calls" });
    this.cards = [];
    this.below = el("div", { class: "below" });
    const naming = { class: "message answer", "aria-label": "Answer", "aria-busy": "false" };
    this.node = el("article", naming, this.text, this.calls, this.below);
    this.frame = 0;
    this.draw();
    this.close();
  }

  /** The answer is being written from now on, until `close`. */
  open() {
    this.node.classList.add("writing");
    this.node.setAttribute("aria-busy", "true");
    this.below.replaceChildren();
  }

  grow() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  close() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.node.classList.remove("writing");
    this.node.setAttribute("aria-busy", "false");
    this.draw();
    this.below.replaceChildren(this.message.error ? this.problem() : this.foot());
  }

  draw() {
    this.drawReasoning();
    update(this.text, this.message.content);
    const calls = this.message.tool_calls ?? [];
    for (const call of calls.slice(this.cards.length)) {
      const card = new CallCard(call);
      this.cards.push(card);
      this.calls.append(card.node);
    }
    for (const card of this.cards) card.draw();
  }

  drawReasoning() {
    const { reasoning_content: reasoning, thought } = this.message;
    if (!reasoning) return;
    if (!this.reasoning) {
      this.reasoning = { label: el("summary", {}), text: el("div", { class: "text" }) };
      const folded = el("details", { class: "reasoning" }, this.reasoning.label, this.reasoning.text);
      folded.addEventListener("toggle", () => this.draw());
      this.node.prepend(folded);
      this.reasoning.node = folded;
    }
    const thinks = this.node.classList.contains("writing") && !this.message.content && !this.cards.length;
    this.reasoning.node.classList.toggle("thinking", thinks);
    setText(this.reasoning.label, thinks ? "Thinking" : thought ? `Thought for ${seconds(thought)}` : "Reasoning");
    if (this.reasoning.node.open) update(this.reasoning.text, reasoning); // what nobody sees need not be drawn
  }

  foot() {
    const parts = (this.message.note ?? "").split(" · ").flatMap((part) => [" · ", noted(part)]).slice(1);
    const note = el("span", { class: "note" }, ...parts);
    return el("footer", {}, copyButton(() => this.message.content), this.retryButton("Regenerate"), note);
  }

  problem() {
    const buttons = el("div", { class: "actions" }, this.retryButton("Try again"), this.actions.help(this.message));
    return el("div", { class: "problem", role: "alert" }, el("p", {}, this.message.error), buttons);
  }

  retryButton(label) {
    return button(label, () => this.actions.retry(), { class: "plain small retry" });
  }

  /** Fields for the results of calls that have none yet. */
  offerResults(open) {
    const cards = this.cards.filter(({ call }) => open.some(({ id }) => id === call.id));
    if (cards.length) this.calls.append(resultsForm(cards, (results) => this.actions.results(results)));
  }

  /** Shows the result of a call; false if the call is another answer's. */
  setResult({ tool_call_id: id, content }) {
    const card = this.cards.find(({ call }) => call.id === id);
    card?.settle(content);
    return Boolean(card);
  }
}

function noted(part) {
  const found = TERMS.find(([pattern]) => pattern.test(part));
  return found ? term(part, found[1]) : part;
}
