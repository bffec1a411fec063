// The server, as this page uses it: OpenAI's API, and /octavo/state.

import { events } from "./sse.js";

const BASE = new URL(".", document.baseURI); // also right behind a proxy that adds a path

/** status: of HTTP, or 0 where there was no answer, or null within a stream. retryAfter: seconds, or null. */
export class ApiError extends Error {
  constructor(message, status = null, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function call(path, key, options = {}) {
  const headers = { ...(options.body && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(new URL(path, BASE), { ...options, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.", 0);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const body = await response.json().catch(() => null);
  const said = body?.error?.message ?? body?.detail;
  const message = typeof said === "string" ? said : `The server answered ${response.status}.`;
  const wait = Number.parseFloat(response.headers.get("Retry-After"));
  return new ApiError(message, response.status, Number.isFinite(wait) ? wait : null);
}

export const getState = async (key, signal) => (await call("octavo/state", key, { signal })).json();

export const getGlossary = async () => (await call("glossary.md")).text();

/** { id, root } each. root: the model's name in /octavo/state, where `id` is another name of it. */
export async function getModels(key) {
  const { data } = await (await call("v1/models", key)).json();
  return data.map(({ id, root }) => ({ id, root: root ?? id }));
}

/**
 * Asks for a chat completion and tells of its text as it comes: onText(text, id of the request).
 *
 * Returns { tokens, cached, finish, ttft, rate } (null where unknown). Throws ApiError, also for a stream that breaks
 * off: an answer that just stops is not to be taken for a whole one.
 */
export async function ask(request, key, signal, onText) {
  const started = performance.now();
  const body = JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } });
  const response = await call("v1/chat/completions", key, { method: "POST", body, signal });
  const seen = { finish: null, usage: null, first: null, last: null, chunks: 0 };
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return summary(seen, started);
      take(JSON.parse(data), seen, onText);
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError("The connection broke off before the answer was complete.");
  }
  if (seen.finish === null) throw new ApiError("The stream ended before the answer was complete.");
  return summary(seen, started);
}

function take(chunk, seen, onText) {
  if (chunk.error) throw new ApiError(chunk.error.message ?? "The server could not finish this answer.");
  seen.usage = chunk.usage ?? seen.usage;
  const choice = chunk.choices?.[0];
  seen.finish = choice?.finish_reason ?? seen.finish;
  const text = choice?.delta?.content;
  if (!text) return;
  seen.last = performance.now();
  seen.first ??= seen.last;
  seen.chunks += 1;
  onText(text, chunk.id);
}

function summary({ finish, usage, first, last, chunks }, started) {
  const tokens = usage?.completion_tokens ?? chunks;
  return {
    tokens,
    finish,
    cached: usage?.prompt_tokens_details?.cached_tokens ?? null,
    ttft: first === null ? null : (first - started) / 1000,
    rate: tokens > 1 && last > first ? ((tokens - 1) * 1000) / (last - first) : null,
  };
}
