// Asks how the engine stands, as often as somebody looks.

import { getState } from "../lib/api.js";
import { setText } from "../lib/dom.js";
import { Panel } from "./panel.js";

const FAST = 500; // ms between questions while the view is open and something runs
const IDLE = 1000; // while nothing does
const SLOW = 3000; // while the view is closed: for the status line only
const FAILING = 4000;
const GIVEN_UP = new Set([401, 403, 404]); // asking again is no use until something changes here

/**
 * nodes: { panel, body, status }. parts: key(), model() and own() as they are now (own: the id of this page's request),
 * onProblem(text or "", error): what is wrong with the engine, onModels(all): what the server says of each model.
 */
export class Live {
  constructor(nodes, parts) {
    Object.assign(this, nodes, parts);
    this.view = new Panel(this.body);
    this.timer = null;
    this.asking = null;
    document.addEventListener("visibilitychange", () => this.wake());
  }

  get visible() {
    return this.panel.offsetParent !== null;
  }

  /** Asks now: something has changed. */
  wake() {
    clearTimeout(this.timer);
    this.asking?.abort();
    if (!document.hidden) this.ask();
  }

  async ask() {
    const asking = (this.asking = new AbortController());
    let wait = SLOW;
    try {
      const runs = this.show(await getState(this.key(), asking.signal));
      if (this.visible) wait = runs ? FAST : IDLE;
    } catch (error) {
      if (error.name === "AbortError") return; // whoever did it asks anew
      this.fail(error);
      wait = GIVEN_UP.has(error.status) ? Infinity : FAILING;
    }
    if (asking === this.asking && !document.hidden && wait < Infinity) this.timer = setTimeout(() => this.ask(), wait);
  }

  /** Whether something runs. */
  show(state) {
    const models = state.models ?? [];
    const model = models.find(({ id }) => id === this.model()) ?? models[0];
    this.onProblem(model?.problem ? `The engine: ${model.problem}` : "");
    this.onModels(models);
    this.setStatus(model?.state ?? "unknown", model ? standing(model) : "no model");
    if (model && this.visible) this.view.update(model, state.rss ?? null, this.own());
    return models.some(({ snapshot }) => snapshot?.stats?.running > 0);
  }

  fail(error) {
    const known = { 401: ["needs an API key", "unknown"], 404: ["no live view", "unknown"], 0: ["no connection", "failed"] };
    const [text, state] = known[error.status] ?? ["error", "failed"];
    this.setStatus(state, text);
    this.onProblem(error.status === 404 ? "" : error.message, error);
  }

  setStatus(state, text) {
    this.status.dataset.state = state;
    setText(this.status, text);
  }
}

const WORDS = { stopped: "not loaded", waiting: "restarting", failed: "cannot be loaded", ready: "ready" };

function standing({ state, progress }) {
  if (state === "loading") return progress ? `loading ${Math.round(100 * progress)} %` : "loading";
  return WORDS[state] ?? state;
}
