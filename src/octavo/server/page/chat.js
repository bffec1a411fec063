// A conversation with the model: from the message box to the answer on screen.

import { ApiError, ask } from "./api.js";
import { el } from "./dom.js";
import { count, plural, seconds, short } from "./format.js";

/** parts: { conversation, transcript, composer, settings, model(), say(text) }. */
export class Chat {
  constructor(parts) {
    Object.assign(this, parts);
    this.request = null; // the AbortController of the answer being written
    this.id = null; // its name at the server
  }

  send(text) {
    this.transcript.addUser(this.conversation.add("user", text));
    this.answer();
  }

  stop() {
    this.request?.abort();
  }

  retry() {
    if (this.request) return;
    this.conversation.dropAnswer();
    this.transcript.dropAnswer();
    this.answer();
  }

  clear() {
    this.stop();
    this.conversation.clear();
    this.transcript.show([]);
  }

  async answer() {
    const request = (this.request = new AbortController());
    const body = { model: this.model(), messages: this.conversation.forRequest(this.settings.system), ...this.settings.sampling() };
    const message = this.conversation.add("assistant");
    const view = this.transcript.addAnswer(message);
    this.composer.setWriting(true);
    this.say("The model is writing.");
    try {
      const facts = await ask(body, this.settings.key, request.signal, (text, id) => {
        this.id = id;
        message.content += text;
        view.grow();
      });
      message.note = note(facts);
      view.end();
      this.say(`Answer complete, ${plural(facts.tokens, "token")}.`);
    } catch (error) {
      this.broken(error, message, view);
    } finally {
      this.request = this.id = null;
      this.composer.setWriting(false);
      this.conversation.keep();
    }
  }

  broken(error, message, view) {
    if (error.name === "AbortError") {
      message.note = "stopped";
      view.end();
      this.say("Stopped.");
    } else {
      message.note = "incomplete";
      const known = error instanceof ApiError;
      const open = () => this.settings.open("key");
      const action = error.status === 401 ? el("button", { type: "button", class: "plain small", onclick: open }, "Enter the API key") : null;
      view.fail(known ? error : new ApiError(`This page failed: ${error.message}`), action);
      if (!known) throw error;
    }
  }
}

/** "128 tokens · 96 of the prompt cached · first token after 80 ms · 92.1 tokens/s" */
function note({ tokens, cached, ttft, rate, finish }) {
  const facts = [plural(tokens, "token")];
  if (cached) facts.push(`${count(cached)} of the prompt cached`);
  if (ttft !== null) facts.push(`first token after ${seconds(ttft)}`);
  if (rate !== null) facts.push(`${short(rate)}\u00a0tokens/s`);
  if (finish === "length") facts.push("stopped at the token limit");
  return facts.join(" · ");
}
