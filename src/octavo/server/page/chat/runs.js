// The answers that are being written, at most one in each chat. They go on while another chat is on screen.

export class Runs {
  /** onChange(): one began or ended. */
  constructor(onChange) {
    this.onChange = onChange;
    this.byChat = new Map();
  }

  /** Returns { chat, controller, id, view }. id: the request's name at the server. view: what shows the answer, or null. */
  start(chat) {
    const run = { chat, controller: new AbortController(), id: null, view: null };
    this.byChat.set(chat, run);
    this.onChange();
    return run;
  }

  get(chat) {
    return this.byChat.get(chat) ?? null;
  }

  get chats() {
    return [...this.byChat.keys()];
  }

  /** Whether the run was still its chat's: a new one may have taken its place. */
  end(run) {
    const own = this.byChat.get(run.chat) === run;
    if (own) this.byChat.delete(run.chat);
    this.onChange();
    return own;
  }

  /** Stops the answer of a chat at once; its request ends soon after. */
  stop(chat) {
    const run = this.get(chat);
    run?.controller.abort();
    this.byChat.delete(chat);
    if (run) this.onChange();
  }
}
