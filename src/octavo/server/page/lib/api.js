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

let glossary = null; // a promise, once somebody asks; it never changes

export function getGlossary() {
  glossary ??= call("glossary.md").then((response) => response.text());
  glossary.catch(() => (glossary = null)); // the server is gone: the next time, perhaps
  return glossary;
}

/** What went wrong, in a sentence or two for the user. */
export function explain(error) {
  if (!(error instanceof ApiError)) return `This page failed: ${error.message}`;
  return error.retryAfter ? `${error.message} Try again in ${Math.ceil(error.retryAfter)} s.` : error.message;
}

/** { id, root } each. root: the model's name in /octavo/state, where `id` is another name of it. */
export async function getModels(key) {
  const { data } = await (await call("v1/models", key)).json();
  return data.map(({ id, root }) => ({ id, root: root ?? id }));
}

/**
 * Asks for an answer and tells of its parts as they come: onDelta(delta, id of the request). A delta has some of
 * { content, reasoning_content, tool_calls }.
 *
 * Returns { tokens, cached, finish, ttft, rate } (null where unknown). Throws ApiError, also for a stream that breaks
 * off: an answer that just stops is not to be taken for a whole one.
 */
export const chat = (request, ...rest) => generate("v1/chat/completions", request, ...rest);

/** The same for a text that the model continues. */
export const complete = (request, ...rest) => generate("v1/completions", request, ...rest);

async function generate(path, request, key, signal, onDelta) {
  const started = performance.now();
  const body = JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } });
  const response = await call(path, key, { method: "POST", body, signal });
  const seen = { finish: null, usage: null, first: null, last: null, chunks: 0 };
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return summary(seen, started);
      take(JSON.parse(data), seen, onDelta);
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError("The connection broke off before the answer was complete.");
  }
  if (seen.finish === null) throw new ApiError("The stream ended before the answer was complete.");
  return summary(seen, started);
}

function take(chunk, seen, onDelta) {
  if (chunk.error) throw new ApiError(chunk.error.message ?? "The server could not finish this answer.");
  seen.usage = chunk.usage ?? seen.usage;
  const choice = chunk.choices?.[0];
  seen.finish = choice?.finish_reason ?? seen.finish;
  const delta = choice?.delta ?? { content: choice?.text };
  if (!delta.content && !delta.reasoning_content && !delta.tool_calls?.length) return;
  seen.last = performance.now();
  seen.first ??= seen.last;
  seen.chunks += 1;
  onDelta(delta, chunk.id);
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
