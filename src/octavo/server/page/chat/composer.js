// The message box: Enter sends, Shift+Enter makes a new line.

/** nodes: { form, prompt, send, stop }. onSend(text): false if it could not be sent. onStop(). */
export class Composer {
  constructor(nodes, { onSend, onStop }) {
    Object.assign(this, nodes);
    this.writing = false; // an answer is
    this.onSend = onSend;
    this.prompt.addEventListener("input", () => this.refresh());
    this.prompt.addEventListener("keydown", (event) => this.key(event));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.stop.addEventListener("click", onStop);
    this.refresh();
  }

  key(event) {
    // While an input method composes (Japanese, say), Enter belongs to it.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.submit();
  }

  submit() {
    const text = this.prompt.value.trim();
    if (!text || this.writing) return;
    if (this.onSend(text) !== false) this.set("");
  }

  set(text) {
    this.prompt.value = text;
    this.refresh();
  }

  /** Which of the two buttons there is; the focus stays where it was. */
  setWriting(writing) {
    const focused = [this.send, this.stop].includes(document.activeElement);
    this.writing = writing;
    this.stop.hidden = !writing;
    this.send.hidden = writing;
    this.refresh();
    if (focused) (writing ? this.stop : this.prompt).focus();
  }

  refresh() {
    this.send.disabled = !this.prompt.value.trim();
    this.prompt.style.height = "auto";
    this.prompt.style.height = `${this.prompt.scrollHeight}px`;
  }
}
