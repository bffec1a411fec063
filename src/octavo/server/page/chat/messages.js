// Messages as OpenAI's API has them. The page adds to an answer: note (facts about it), error (why it is incomplete), status
// (the error's, of HTTP; not stored) and thought (seconds of reasoning).

const ROLES = ["user", "assistant", "tool"];
const isText = (value) => typeof value === "string";

export const userMessage = (content) => ({ role: "user", content });
export const answerMessage = () => ({ role: "assistant", content: "", note: null, error: null });
export const toolMessage = (id, content) => ({ role: "tool", tool_call_id: id, content });

/** Adds what a stream sends to an answer. delta: { content, reasoning_content, tool_calls }, each if there is some. */
export function addDelta(message, { content, reasoning_content: reasoning, tool_calls: calls }) {
  if (content) message.content += content;
  if (reasoning) message.reasoning_content = (message.reasoning_content ?? "") + reasoning;
  for (const { index = 0, id, function: part } of calls ?? []) {
    const all = (message.tool_calls ??= []);
    const call = (all[index] ??= { id, type: "function", function: { name: "", arguments: "" } });
    call.id ??= id;
    call.function.name += part?.name ?? "";
    call.function.arguments += part?.arguments ?? "";
  }
}

/** The message with what is known of it and nothing else; null if it is none. Stored and imported data go through this. */
export function soundMessage(value) {
  const content = value?.content ?? "";
  if (!ROLES.includes(value?.role) || !isText(content)) return null;
  const { role } = value;
  if (role === "user") return userMessage(content);
  if (role === "tool") return isText(value.tool_call_id) ? toolMessage(value.tool_call_id, content) : null;
  const message = { ...answerMessage(), content };
  for (const name of ["note", "error", "reasoning_content"]) if (isText(value[name])) message[name] = value[name];
  if (Number.isFinite(value.thought)) message.thought = value.thought;
  const calls = (Array.isArray(value.tool_calls) ? value.tool_calls : []).map(soundCall).filter(Boolean);
  if (calls.length) message.tool_calls = calls;
  return message;
}

function soundCall(call) {
  const { name, arguments: given } = call?.function ?? {};
  if (![call?.id, name, given].every(isText)) return null;
  return { id: call.id, type: "function", function: { name, arguments: given } };
}

/** The messages as a request or a file has them. An answer of which nothing came is no message. */
export function plainMessages(messages, system) {
  const said = messages.filter(({ role, content, tool_calls: calls }) => role === "tool" || content || calls?.length);
  const plain = said.map(({ note, error, status, thought, ...rest }) => rest);
  return system ? [{ role: "system", content: system }, ...plain] : plain;
}

/** The calls of an answer whose results are not among the messages after it. */
export function openCalls(messages) {
  const at = messages.findLastIndex(({ role }) => role !== "tool");
  const done = new Set(messages.slice(at + 1).map(({ tool_call_id: id }) => id));
  return (messages[at]?.tool_calls ?? []).filter(({ id }) => !done.has(id));
}
