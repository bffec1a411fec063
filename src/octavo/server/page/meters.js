// The last sections of the live view: speculation, the prefix cache, memory. Each is there if there is something to say.

import { el } from "./dom.js";
import { bytes, count, percent } from "./format.js";

const USES = { weights: "weights", kv: "KV cache", scratch: "scratch" };

/** stats: the engine's totals. memory: bytes by use, or undefined. rss: bytes, or null. */
export function meters(stats, memory, rss) {
  return [prefix(stats), speculation(stats), memory && memoryMeter(memory, rss)].filter(Boolean);
}

function prefix({ prefix_queries: asked, prefix_hits: found }) {
  if (!asked) return null;
  return meter("Prefix cache", `${percent(found / asked)} of prompt tokens reused`, [found / asked]);
}

/** Tokens that a step with drafts gave a sequence: 1, and the drafts that stood (as vLLM counts). */
function speculation({ drafts, draft_tokens: drafted, accepted_tokens: accepted, accepted_at: places }) {
  if (!drafted) return null;
  const facts = `${percent(accepted / drafted)} accepted · ${(1 + accepted / Math.max(1, drafts)).toFixed(2)} tokens per step`;
  const node = meter("Speculation", facts, [accepted / drafted]);
  const by = Object.entries(places ?? {}).map(([place, number]) => [Number(place), number]).sort(([a], [b]) => a - b);
  if (by.length > 1) node.append(placeBars(by, drafts));
  return node;
}

/** How often the first draft token stood, the second, and so on. */
function placeBars(by, drafts) {
  const bars = by.slice(0, 12).map(([place, number]) => {
    const share = Math.min(1, number / Math.max(1, drafts));
    const bar = el("i");
    bar.style.height = `${Math.max(4, 100 * share)}%`;
    return el("li", { title: `Draft token ${place + 1}: accepted in ${percent(share)} of steps` }, bar, el("span", {}, `${place + 1}`));
  });
  return el("ol", { class: "places", "aria-label": "Acceptance by position in the draft" }, ...bars);
}

function memoryMeter(memory, rss) {
  const parts = Object.entries(memory);
  const total = parts.reduce((sum, [, size]) => sum + size, 0);
  const facts = rss ? `${bytes(rss)} resident` : `${bytes(total)} planned`;
  const node = meter("Memory", facts, parts.map(([, size]) => size / Math.max(1, total)));
  const entries = parts.map(([use, size], index) =>
    el("li", {}, el("i", { class: `key part-${index}` }), `${USES[use] ?? use} `, el("b", {}, bytes(size))),
  );
  node.append(el("ul", { class: "legend" }, ...entries));
  return node;
}

function meter(title, facts, shares) {
  const bars = shares.map((share, index) => {
    const bar = el("i", { class: `part-${index}` });
    bar.style.width = `${(100 * share).toFixed(2)}%`;
    return bar;
  });
  const head = el("div", { class: "section-head" }, el("h2", {}, title), el("small", {}, facts));
  return el("section", {}, head, el("div", { class: "meter", "aria-hidden": "true" }, ...bars));
}
