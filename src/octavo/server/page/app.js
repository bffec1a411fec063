// Puts the page together.

import { getModels } from "./api.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { byId, el, setText } from "./dom.js";
import { Glossary } from "./glossary.js";
import { Live } from "./live.js";
import { Settings } from "./settings.js";
import { load, save } from "./store.js";
import { Transcript } from "./transcript.js";

const EXAMPLES = [
  "Explain in three sentences how a paged KV cache works.",
  "Write a Python function that reverses the words of a sentence.",
  "What is an octavo?",
];
const AGAIN = 3000; // ms until the models are asked for once more, after that failed

const models = byId("model");
const model = () => (models.disabled ? undefined : models.value);

const settings = new Settings(
  { dialog: byId("settings"), form: byId("settings-form"), close: byId("close-settings"), reset: byId("reset-settings") },
  () => {
    live.wake();
    loadModels();
  },
);
const conversation = new Conversation();
const transcript = new Transcript(
  { scroller: byId("scroller"), messages: byId("messages"), welcome: byId("welcome"), toLatest: byId("to-latest") },
  () => chat.retry(),
);
const composer = new Composer(
  { form: byId("composer"), prompt: byId("prompt"), send: byId("send"), stop: byId("stop") },
  (text) => {
    chat.send(text);
    live.wake();
  },
  () => chat.stop(),
);
const say = (text) => setText(byId("progress"), text);
const chat = new Chat({ conversation, transcript, composer, settings, model, say });
const live = new Live(
  { panel: byId("live"), body: byId("live-body"), problem: byId("live-problem"), status: byId("status") },
  () => settings.key,
  () => models.selectedOptions[0]?.dataset.root,
  () => chat.id,
);

new Glossary({
  dialog: byId("glossary"), body: byId("glossary-body"), opener: byId("open-glossary"), close: byId("close-glossary"),
});

async function loadModels() {
  let found;
  try {
    found = await getModels(settings.key);
  } catch (error) {
    if (error.status !== 401) setTimeout(loadModels, AGAIN);
    return;
  }
  const chosen = load("model", null);
  models.replaceChildren(...found.map(({ id, root }) => el("option", { value: id, "data-root": root }, id)));
  if (found.some(({ id }) => id === chosen)) models.value = chosen;
  models.disabled = !found.length;
  live.wake();
}

function setView(view) {
  document.body.dataset.view = view;
  for (const name of ["chat", "live"]) byId(`tab-${name}`).setAttribute("aria-pressed", String(name === view));
  live.wake();
}

for (const text of EXAMPLES) {
  const take = () => {
    composer.set(text);
    byId("prompt").focus();
  };
  byId("examples").append(el("li", {}, el("button", { type: "button", onclick: take }, text)));
}
for (const name of ["chat", "live"]) byId(`tab-${name}`).addEventListener("click", () => setView(name));
byId("new-chat").addEventListener("click", () => {
  chat.clear();
  setView("chat");
  byId("prompt").focus();
});
byId("open-settings").addEventListener("click", () => settings.open());
models.addEventListener("change", () => {
  save("model", models.value);
  live.wake();
});

transcript.show(conversation.messages);
loadModels();
live.wake();
if (matchMedia("(hover: hover)").matches) byId("prompt").focus(); // elsewhere it would open the keyboard
