// The live view: everything the engine does at this moment, drawn from one answer of /octavo/state.

import { el, setText } from "../lib/dom.js";
import { count, percent, plural, quantile, seconds, short } from "../lib/format.js";
import { explained, term } from "../text/terms.js";
import { BlockMap, kind, tally } from "./blocks.js";
import { Colours } from "./colours.js";
import { Meters } from "./meters.js";
import { nickname, Requests, sequence } from "./requests.js";
import { sparkline } from "./sparkline.js";

const RATE_SECONDS = 5; // over which tokens/s is taken

export class Panel {
  constructor(parent) {
    this.colours = new Colours();
    this.sequences = [];
    this.running = tile(explained("Running", "Sequences that the engine is computing."));
    this.waiting = tile(explained("Waiting", "Requests in the queue, until the engine has room for them."));
    this.rate = sparkline("Tokens/s", explained("Tokens/s", "Tokens generated per second, over all requests."));
    this.ttft = sparkline("TTFT", term("TTFT", "ttft"));
    this.itl = sparkline("ITL", term("ITL", "itl"));
    this.requests = new Requests((index) => this.map.highlight(index));
    this.sums = Object.fromEntries(KINDS.map((name) => [name, el("b", {}, "–")]));
    this.legend = el("ul", { class: "legend" }, ...KINDS.map((name) => entry(name, this.sums[name])));
    this.usage = el("small");
    this.meters = new Meters();
    parent.append(
      el("div", { class: "tiles" }, this.running.node, this.waiting.node, this.rate.node),
      el("div", { class: "sparks" }, this.ttft.node, this.itl.node),
      section(term("KV blocks", "block"), this.usage, this.mapNodes(), this.legend),
      section(term("Sequences", "sequence"), null, this.requests.node),
      this.meters.node,
    );
  }

  mapNodes() {
    this.canvas = el("canvas", { class: "map", tabindex: "0", role: "img" });
    const tip = el("div", { class: "tip", role: "status", hidden: true });
    const frame = el("div", { class: "map-frame", hidden: true }, this.canvas, tip);
    this.map = new BlockMap(this.canvas, tip, (block, place) => this.describe(block, place));
    return frame;
  }

  /** model: one of /octavo/state's. rss: bytes of all processes, or null. own: the id of this page's request, or null. */
  update(model, rss, own) {
    const snapshot = model.snapshot ?? {};
    const stats = snapshot.stats ?? {};
    this.sequences = (snapshot.sequences ?? []).map(sequence);
    const slots = this.colours.assign(this.sequences.map(({ id, index }) => `${id}/${index}`));
    const queued = model.queue?.requests ?? 0;
    const waiting = (stats.waiting ?? 0) + queued;
    this.running.set(stats.running ?? 0);
    this.waiting.set(waiting);
    this.figures(model);
    this.blocks(snapshot, slots, model.info);
    this.requests.update(this.sequences, slots, waiting ? `${plural(waiting, "request")} waiting` : "", own);
    this.meters.update(stats, model.info, rss, model.device_used);
  }

  figures({ throughput = [], recent_ttft: ttft = [], recent_itl: itl = [] }) {
    const whole = throughput.slice(0, -1); // the last second is not over
    const recent = whole.slice(-RATE_SECONDS);
    const rate = recent.reduce((sum, tokens) => sum + tokens, 0) / Math.max(1, recent.length);
    this.rate.update(whole, rate ? short(rate) : "0", whole.length ? `most ${count(Math.max(...whole))}` : "");
    for (const [line, values] of [[this.ttft, ttft], [this.itl, itl]]) {
      line.update(values.slice(-100), seconds(quantile(values, 0.5)), values.length ? `p99 ${seconds(quantile(values, 0.99))}` : "");
    }
  }

  blocks({ blocks = [] }, slots, info) {
    const sums = tally(blocks);
    this.canvas.parentElement.hidden = !sums.total;
    this.map.update(blocks, slots);
    const held = sums.used + sums.shared;
    const facts = [percent(held / (sums.total || 1)) + " in use", info && `${plural(info.block_size, "token")} each`];
    if (sums.total && this.map.each > 1) facts.push(`${this.map.each} per cell`);
    setText(this.usage, facts.filter(Boolean).join(" · "));
    for (const name of KINDS) setText(this.sums[name], count(sums[name]));
    const said = `${sums.total} blocks: ${sums.used} used, ${sums.shared} shared, ${sums.cached} cached, ${sums.free} free.`;
    this.canvas.setAttribute("aria-label", `Map of the KV cache. ${said} Use the arrow keys to move over it.`);
  }

  describe(block, { index, each }) {
    const place = each > 1 ? `Blocks ${index} to ${index + each - 1}` : `Block ${index}`;
    const owner = this.sequences[block.owner];
    const states = {
      free: "free",
      cached: "cached: in no sequence, kept for a prompt that begins the same way",
      used: owner && `used by ${nickname(owner)}`,
      shared: owner && `shared by ${block.tables} sequences, including ${nickname(owner)}`,
    };
    return `${place}: ${states[kind(block)] ?? "in use"}`;
  }
}

function tile(label) {
  const value = el("b", {}, "–");
  const node = el("div", { class: "tile" }, el("p", {}, label), value);
  return { node, set: (number) => setText(value, count(number)) };
}

function section(title, aside, ...children) {
  return el("section", {}, el("div", { class: "section-head" }, el("h2", {}, title), aside), ...children);
}

const MEANING = {
  used: "In one sequence, drawn in its colour.",
  shared: "In several sequences that begin with the same tokens.",
  cached: "In no sequence, kept for reuse.",
  free: "Empty.",
};
const KINDS = Object.keys(MEANING);

const entry = (name, sum) =>
  el("li", {}, el("i", { class: `key ${name}` }), explained(name, MEANING[name]), " ", sum);
