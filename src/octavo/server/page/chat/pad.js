// The completion pad: a text that the model continues, for base models, which know no chats.
//
// Behind the text field lies a copy of its text in which the latest continuation is marked. It also gives the field its height.

import { complete, explain } from "../lib/api.js";
import { setText } from "../lib/dom.js";
import { note } from "./chat.js";

const NEAR = 48; // px from the end within which the reader follows along
const PAUSE = 500; // ms after the last key until the text is stored

/** nodes: { scroller, text, before, fresh, after, go, stop, undo, again, note, problem }. parts: as Chat's. */
export class Pad {
  constructor(nodes, parts) {
    Object.assign(this, nodes, parts);
    this.current = null;
    this.frame = 0;
    this.text.addEventListener("input", () => this.typed());
    this.text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.go.click();
    });
    this.go.addEventListener("click", () => this.proceed());
    this.stop.addEventListener("click", () => this.runs.get(this.current)?.controller.abort());
    this.undo.addEventListener("click", () => this.takeBack());
    this.again.addEventListener("click", () => {
      this.takeBack();
      this.proceed();
    });
  }

  open(pad) {
    this.current = pad;
    this.show();
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  show() {
    const { text, last, note: said, error } = this.current;
    const { start, end } = last ?? { start: text.length, end: text.length };
    const writing = Boolean(this.runs.get(this.current));
    const follows = this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight < NEAR;
    if (this.text.value !== text) this.text.value = text;
    setText(this.before, text.slice(0, start));
    setText(this.fresh, text.slice(start, end));
    setText(this.after, `${text.slice(end)}\n`); // the field shows a line after a final line break, too
    this.text.readOnly = writing;
    setText(this.note, writing ? "" : (said ?? ""));
    setText(this.problem, error ?? "");
    this.problem.hidden = !error;
    const focused = [this.go, this.stop].includes(document.activeElement);
    this.stop.hidden = !writing;
    this.go.hidden = writing;
    this.go.disabled = !text;
    for (const button of [this.undo, this.again]) button.disabled = writing || !last;
    if (focused) (writing ? this.stop : this.go).focus();
    if (follows) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  typed() {
    const { current: pad } = this;
    const { value } = this.text;
    const { last } = pad;
    // The mark stays where it is as long as only what follows it changes.
    if (last && value.slice(0, last.end) !== pad.text.slice(0, last.end)) pad.last = null;
    pad.text = value;
    this.show();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.chats.touch(pad), PAUSE);
  }

  takeBack() {
    const { current: pad } = this;
    if (!pad.last) return;
    pad.text = pad.text.slice(0, pad.last.start) + pad.text.slice(pad.last.end);
    Object.assign(pad, { last: null, note: null, error: null });
    this.chats.touch(pad);
    this.show();
  }

  async proceed() {
    const { current: pad } = this;
    if (!pad.text || this.runs.get(pad) || !this.settings.check()) return;
    const start = pad.text.length;
    const body = { model: this.models.name, prompt: pad.text, ...this.settings.sampling() };
    const run = this.runs.start(pad);
    Object.assign(pad, { last: null, note: null, error: null, model: body.model ?? pad.model });
    this.chats.touch(pad);
    this.show();
    this.say("The model is writing.");
    try {
      const facts = await complete(body, this.settings.key, run.controller.signal, ({ content }, id) => {
        run.id = id;
        pad.text += content;
        pad.last = { start, end: pad.text.length };
        this.grow(pad);
      });
      pad.note = note(facts);
      this.say("The continuation is complete.");
    } catch (error) {
      this.broken(error, pad);
    }
    this.runs.end(run);
    if (this.chats.has(pad)) this.chats.keep(pad);
    if (pad === this.current) this.show();
    else if (pad.error) this.notices.show(`No continuation: ${pad.error}`, "Show", () => this.reveal(pad));
  }

  grow(pad) {
    if (pad !== this.current) return;
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.show();
    });
  }

  broken(error, pad) {
    if (error.name === "AbortError") pad.note = "stopped";
    else pad.error = explain(error);
    if (error.status === 401) this.settings.askForKey();
  }
}
