// One message of the user on screen. It can be edited: the chat then goes on from there.

import { button, copyButton, el } from "../lib/dom.js";

/** onEdit(text): the message shall say this instead. */
export function question(message, onEdit) {
  const bubble = el("div", { class: "user" }, message.content);
  const edit = button("Edit", () => swap(form()));
  const tools = el("footer", {}, copyButton(() => message.content), edit);
  const node = el("article", { class: "message question", "aria-label": "You" }, bubble, tools);
  const swap = (...children) => {
    node.replaceChildren(...children);
    node.querySelector("textarea")?.focus();
  };
  const cancel = () => {
    swap(bubble, tools);
    edit.focus();
  };

  function form() {
    const field = el("textarea", { "aria-label": "Edit the message", rows: "1" });
    field.value = message.content;
    const send = el("button", { type: "submit", class: "primary" }, "Send");
    const foot = el("div", { class: "actions" }, button("Cancel", cancel), send);
    const made = el("form", { class: "edit" }, field, foot);
    const submit = () => (field.value.trim() ? onEdit(field.value.trim()) : cancel());
    made.addEventListener("submit", (event) => {
      event.preventDefault();
      submit();
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation(); // it does not also stop an answer
        cancel();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        submit();
      }
    });
    return made;
  }
  return node;
}
