// The chat on screen: from a question to the answer.

import { chat as ask, explain } from "../lib/api.js";
import { button } from "../lib/dom.js";
import { count, plural, seconds, short } from "../lib/format.js";
import { addDelta, answerMessage, openCalls, plainMessages, toolMessage, userMessage } from "./messages.js";

/**
 * parts: { chats, runs, transcript, composer, settings, models, notices, say(text) }, and
 * reveal(chat): show it, openPad(): what a base model needs.
 */
export class Chat {
  constructor(parts) {
    Object.assign(this, parts);
    this.current = null;
  }

  open(chat) {
    const old = this.runs.get(this.current);
    if (old) old.view = null; // it goes on unseen
    this.current = chat;
    const run = this.runs.get(chat);
    const view = this.transcript.show(chat.messages, run?.message);
    if (run) run.view = view;
    this.transcript.showSystem(chat.system);
    this.composer.setWriting(Boolean(run));
  }

  /** Returns false if the settings must be mended first. */
  send(text) {
    if (!this.settings.check()) return false;
    this.add(userMessage(text));
    this.answer(this.current);
    return true;
  }

  add(message) {
    this.current.messages.push(message);
    this.transcript.add(message);
    this.transcript.follow();
  }

  stop() {
    this.runs.get(this.current)?.controller.abort();
  }

  retry() {
    const { current: chat } = this;
    if (this.runs.get(chat) || !this.settings.check()) return;
    const old = chat.messages.at(-1);
    this.goOn(chat.messages.slice(0, -1), old.content ? "The answer is written anew." : null);
  }

  edit(message, text) {
    if (!this.settings.check()) return;
    const at = this.current.messages.indexOf(message);
    this.goOn([...this.current.messages.slice(0, at), userMessage(text)], "The chat goes on from your edit.");
  }

  /** Answers other messages than those there were. said: what happened to them, with a way back. */
  goOn(messages, said) {
    const { current: chat } = this;
    const before = chat.messages;
    this.runs.stop(chat);
    chat.messages = messages;
    this.open(chat);
    this.answer(chat);
    if (said) this.notices.show(said, "Undo", () => this.restore(chat, before));
  }

  restore(chat, messages) {
    this.runs.stop(chat);
    chat.messages = messages;
    this.chats.keep(chat);
    this.reveal(chat);
  }

  answerCalls(results) {
    if (!this.settings.check()) return;
    for (const { id, content } of results) this.current.messages.push(toolMessage(id, content));
    this.open(this.current);
    this.answer(this.current);
  }

  request(chat) {
    const messages = plainMessages(chat.messages, chat.system);
    return { model: this.models.name, messages, ...this.settings.sampling(), ...this.settings.tools() };
  }

  async answer(chat) {
    const body = this.request(chat);
    const run = this.runs.start(chat);
    const message = (run.message = answerMessage());
    chat.messages.push(message);
    chat.model = body.model ?? chat.model;
    this.chats.touch(chat);
    run.view = this.transcript.add(message);
    run.view.open();
    this.transcript.follow();
    this.composer.setWriting(true);
    this.say("The model is writing.");
    const started = performance.now();
    try {
      const facts = await ask(body, this.settings.key, run.controller.signal, (delta, id) => {
        run.id = id;
        addDelta(message, delta);
        if (message.reasoning_content && !message.content) message.thought = (performance.now() - started) / 1000;
        run.view?.grow();
      });
      message.note = note(facts);
      this.say(`Answer complete, ${plural(facts.tokens, "token")}.`);
    } catch (error) {
      this.broken(error, message);
    }
    this.finish(run);
  }

  finish(run) {
    const { chat, message, view } = run;
    const own = this.runs.end(run);
    if (this.chats.has(chat)) this.chats.keep(chat);
    view?.close();
    if (!own) return;
    if (chat === this.current) this.composer.setWriting(false);
    if (view && !message.error) view.offerResults(openCalls(chat.messages));
    if (message.error) this.bringIntoSight(chat, message.error);
    if (message.status === 401) this.settings.askForKey();
  }

  broken(error, message) {
    if (error.name === "AbortError") {
      message.note = "stopped";
      this.say("Stopped.");
      return;
    }
    message.error = explain(error);
    message.status = error.status ?? null;
  }

  bringIntoSight(chat, error) {
    if (chat === this.current && this.transcript.visible) this.transcript.follow();
    else this.notices.show(`No answer: ${error}`, "Show", () => this.reveal(chat));
  }

  /** A button for an error that has a remedy. */
  help({ status }) {
    if (status === 401) return button("Enter the API key", () => this.settings.askForKey());
    if (status === 400 && this.models.chats === false) return button("Open a completion pad", () => this.openPad());
    return null;
  }
}

/** "128 tokens · 96 of the prompt cached · first token after 80 ms · 92.1 tokens/s" */
export function note({ tokens, cached, ttft, rate, finish }) {
  const facts = [plural(tokens, "token")];
  if (cached) facts.push(`${count(cached)} of the prompt cached`);
  if (ttft !== null) facts.push(`first token after ${seconds(ttft)}`);
  if (rate !== null) facts.push(`${short(rate)}\u00a0tokens/s`);
  if (finish === "length") facts.push("stopped at the token limit");
  return facts.join(" · ");
}
