// The table of sequences that the engine holds.

import { el } from "../lib/dom.js";
import { count } from "../lib/format.js";

const MOST = 24; // rows; the rest is counted

/** A sequence of /octavo/state by name. */
export const sequence = ([id, index, tokens, computed, prompt, cached]) => ({ id, index, tokens, computed, prompt, cached });

/** "…1f3a", and which answer of the request it is where there are several. */
export function nickname({ id, index }) {
  const name = id.replace(/\/0$/, ""); // the number of the prompt within its request: mostly there is but one
  const tail = name.length > 8 ? `…${name.slice(-6)}` : name;
  return index ? `${tail} #${index + 1}` : tail;
}

/** onPoint(index or null): a row is pointed at, or none. */
export class Requests {
  constructor(onPoint) {
    const heads = ["Request", "Prompt", "Cached", "Output"].map((name) => el("th", { scope: "col" }, name));
    this.body = el("tbody");
    this.more = el("p", { class: "more" });
    this.table = el("table", { class: "requests" }, el("thead", {}, el("tr", {}, ...heads)), this.body);
    this.node = el("div", {}, this.table, this.more);
    this.body.addEventListener("pointerover", (event) => onPoint(rowIndex(event.target)));
    this.body.addEventListener("pointerleave", () => onPoint(null));
  }

  /** colours: a colour's number for each sequence. waiting: text about those who hold no blocks yet. own: as in Panel. */
  update(sequences, colours, waiting, own) {
    const rows = sequences.slice(0, MOST).map((each, index) => row(each, index, colours[index], own));
    this.body.replaceChildren(...rows);
    this.table.hidden = !rows.length;
    const unseen = sequences.length - rows.length;
    this.more.textContent = [unseen > 0 && `and ${unseen} more`, waiting].filter(Boolean).join("; ") || (rows.length ? "" : "No request is running.");
  }
}

function rowIndex(node) {
  const found = node.closest("tr")?.dataset.index;
  return found === undefined ? null : Number(found);
}

function row(sequence, index, colour, own) {
  const name = nickname(sequence);
  const { prompt, computed, tokens, cached } = sequence;
  const read = prompt ? Math.min(1, computed / prompt) : 1;
  // The last prompt token is computed in the step that gives the first output token.
  const progress = read < 1 ? el("progress", { value: read.toFixed(3), max: 1, "aria-label": "Prefill" }) : null;
  const mine = own && sequence.id.startsWith(own) ? el("small", {}, " this chat") : null;
  const title = el("th", { scope: "row", title: sequence.id }, el("i", { class: `swatch seq-${colour}` }), name, mine);
  const cells = [
    el("td", {}, count(prompt), progress),
    el("td", {}, cached ? count(cached) : "–"),
    el("td", {}, tokens > prompt ? count(tokens - prompt) : "–"),
  ];
  return el("tr", { "data-index": index }, title, ...cells);
}
