// What has been said: kept in this browser, so that a reload loses nothing.

import { load, save } from "./store.js";

const ROLES = ["user", "assistant"];
const sound = (message) => ROLES.includes(message?.role) && typeof message.content === "string";

/** Messages { role, content, note }. note: what is said below an answer, if anything. */
export class Conversation {
  constructor() {
    const kept = load("conversation", []);
    this.messages = Array.isArray(kept) ? kept.filter(sound) : [];
  }

  add(role, content = "") {
    const message = { role, content, note: null };
    this.messages.push(message);
    this.keep();
    return message;
  }

  /** Takes back the last answer; false if the last word is the user's or nobody's. */
  dropAnswer() {
    if (this.messages.at(-1)?.role !== "assistant") return false;
    this.messages.pop();
    this.keep();
    return true;
  }

  clear() {
    this.messages = [];
    this.keep();
  }

  keep() {
    save("conversation", this.messages);
  }

  /** As a request has them. An answer of which nothing came is no message. */
  forRequest(system) {
    const said = this.messages.filter(({ content }) => content).map(({ role, content }) => ({ role, content }));
    return system ? [{ role: "system", content: system }, ...said] : said;
  }
}
