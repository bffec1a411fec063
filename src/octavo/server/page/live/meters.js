// The last sections of the live view: the prefix cache, speculation, memory. Each is there if there is something to say.

import { el, setText } from "../lib/dom.js";
import { bytes, count, percent } from "../lib/format.js";
import { term } from "../text/terms.js";

const USES = { weights: "weights", kv: "KV cache", scratch: "scratch" };

export class Meters {
  constructor() {
    this.prefix = meter(term("Prefix cache", "prefix cache"));
    this.swapping = meter(term("Swapping", "swapping"));
    this.speculation = meter(term("Speculation", "speculation"));
    this.memory = meter("Memory");
    this.node = el("div", {}, this.prefix.node, this.swapping.node, this.speculation.node, this.memory.node);
  }

  /** stats: the engine's totals. info: the engine's, or null. rss, used: bytes of all processes, of the device; or null. */
  update(stats, info, rss, used) {
    this.showPrefix(stats);
    this.showSwapping(stats);
    this.showSpeculation(stats);
    this.showMemory(info ?? {}, rss, used);
  }

  showPrefix({ prefix_queries: asked, prefix_hits: found }) {
    if (!asked) this.prefix.clear();
    else this.prefix.set(`${percent(found / asked)} of prompt tokens reused`, [found / asked]);
  }

  /** What the tiers below the KV pool gave back: of the tokens that were not in the pool, and by tier. */
  showSwapping({ external_queries: asked, external_hits: found, tier_hits: tiers, ...stats }) {
    if (!asked) return this.swapping.clear();
    const facts = [
      ...Object.entries(tiers ?? {}).sort().map(([tier, blocks]) => [`from ${tier}`, `${count(blocks)} blocks`]),
      ["in", `${bytes(stats.swap_bytes_in)} in ${(stats.load_seconds ?? 0).toFixed(1)} s`],
      ["out", bytes(stats.swap_bytes_out)],
      ["dropped", count(stats.store_drops ?? 0)],
      ["overwritten", count(stats.store_evictions ?? 0)],
    ].map(([name, value]) => el("li", {}, `${name} `, el("b", {}, value)));
    this.swapping.set(`${percent(found / asked)} of other tokens loaded`, [found / asked], el("ul", { class: "legend" }, ...facts));
  }

  /** Tokens that a step with drafts gave a sequence: 1, and the drafts that stood (as vLLM counts). */
  showSpeculation({ drafts, draft_tokens: drafted, accepted_tokens: accepted, accepted_at: places }) {
    if (!drafted) return this.speculation.clear();
    const facts = `${percent(accepted / drafted)} accepted · ${(1 + accepted / Math.max(1, drafts)).toFixed(2)} tokens per step`;
    const by = Object.entries(places ?? {}).map(([place, number]) => [Number(place), number]).sort(([a], [b]) => a - b);
    this.speculation.set(facts, [accepted / drafted], by.length > 1 ? placeBars(by, drafts) : null);
  }

  /** The bars are the engine's parts; the words say what its processes and the whole device hold. */
  showMemory({ memory, device, device_memory: all }, rss, used) {
    if (!memory) return this.memory.clear();
    const parts = Object.entries(memory);
    const total = parts.reduce((sum, [, size]) => sum + size, 0);
    const entries = parts.map(([use, size], index) =>
      el("li", {}, el("i", { class: `key part-${index}` }), `${USES[use] ?? use} `, el("b", {}, bytes(size))),
    );
    const facts = [rss ? `${bytes(rss)} resident` : `${bytes(total)} planned`];
    if (device) facts.push(`${device}: ${used ? `${bytes(used)} of ` : ""}${bytes(all)}`);
    this.memory.set(facts.join(" · "), parts.map(([, size]) => size / Math.max(1, total)), el("ul", { class: "legend" }, ...entries));
  }
}

/** How often the first draft token stood, the second, and so on. */
function placeBars(by, drafts) {
  const bars = by.slice(0, 12).map(([place, number]) => {
    const share = Math.min(1, number / Math.max(1, drafts));
    const bar = el("i");
    bar.style.height = `${Math.max(4, 100 * share)}%`;
    const title = `Draft token ${place + 1}: accepted in ${percent(share)} of steps`;
    return el("li", { title }, bar, el("span", {}, count(place + 1)));
  });
  return el("ol", { class: "places", "aria-label": "Acceptance by position in the draft" }, ...bars);
}

/** A section whose title stays (it may have the focus) while what is below it changes. */
function meter(title) {
  const facts = el("small");
  const bars = el("div", { class: "meter", "aria-hidden": "true" });
  const more = el("div");
  const head = el("div", { class: "section-head" }, el("h2", {}, title), facts);
  const node = el("section", { hidden: true }, head, bars, more);
  const set = (text, shares, below = null) => {
    node.hidden = false;
    setText(facts, text);
    bars.replaceChildren(...shares.map(bar));
    more.replaceChildren(...(below ? [below] : []));
  };
  return { node, set, clear: () => (node.hidden = true) };
}

function bar(share, index) {
  const node = el("i", { class: `part-${index}` });
  node.style.width = `${(100 * share).toFixed(2)}%`;
  return node;
}
