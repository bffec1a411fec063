"""Turns engine deltas (token ids) into outputs (text), for `LLM`, the CLI and the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from octavo.outputs import CompletionOutput, Logprob, LogprobMap, OutputDelta, RequestMetrics, RequestOutput
from octavo.processing.stop_strings import StopStrings
from octavo.tokenizer import Detokenizer, Tokenizer, TokenTexts
from octavo.types import Request, SequenceDelta, TokenLogprob


class NoText:
    """The tokens of a request without `detokenize`: they add nothing to its text."""

    space_prefix = False

    def token_bytes(self, token_id: int, skip_special: bool = False) -> bytes:
        return b""


class OutputProcessor:
    """Holds the running requests. `process` takes each step's deltas.

    Stop strings are found here, as the engine has no text. `take_aborts` lists the requests that stop strings
    completed, so that the engine can drop them. Later deltas of a complete answer are ignored.

    seconds: time spent in `process` so far.
    """

    def __init__(self, tokenizer: Tokenizer, clock: Callable[[], float] = time.monotonic):
        self.seconds = 0.0
        self._tokenizer = tokenizer
        self._clock = clock
        self._writers: dict[str, list[Writer]] = {}  # request id -> one writer per answer
        self._aborts: list[str] = []
        self._texts = {skip: TokenTexts(tokenizer, skip) for skip in (False, True)}
        self._silent = TokenTexts(NoText())
        self._words: dict[int, str] = {}  # token id -> its text, for logprobs

    def add(self, request: Request, prompt: str | None = None) -> RequestOutput:
        """Registers a request. The returned output is filled by `process`, until it is `finished`.

        prompt: the text, if the prompt was given as text.
        """
        output = RequestOutput(
            request_id=request.request_id,
            prompt=prompt,
            prompt_token_ids=request.prompt_token_ids,
            prompt_logprobs=None if request.params.prompt_logprobs is None else [None],
            outputs=[],
            finished=False,
            metrics=RequestMetrics(request.arrival),
        )
        texts = self._texts[request.params.skip_special_tokens] if request.params.detokenize else self._silent
        after = request.prompt_token_ids
        writers = [Writer(request, index, output, Detokenizer(texts, after)) for index in range(request.params.n)]
        output.outputs += [writer.output for writer in writers]
        self._writers[request.request_id] = writers
        return output

    def process(self, deltas: Iterable[SequenceDelta]) -> list[OutputDelta]:
        """Returns the new text and tokens of each answer. Finished requests are forgotten; the caller has theirs."""
        now, made = self._clock(), []
        for delta in deltas:
            if (writers := self._writers.get(delta.request_id)) is None:
                continue
            writer = writers[delta.index]
            if writer.plain and delta.finish_reason is None:
                made.append(writer.extend(delta, now))
            elif (new := self._take(writer, delta, now)) is not None:
                made.append(new)
        self.seconds += self._clock() - now
        return made

    def drop(self, request_id: str, reason: str) -> None:
        """Ends a request without the engine: its unfinished answers get this finish reason.

        Later deltas of the request are ignored. Does nothing if it is unknown or has ended.
        """
        if (writers := self._writers.pop(request_id, None)) is None:
            return
        for writer in writers:
            if not writer.output.finished():
                writer.end(reason)
        _finish(writers, self._clock())

    def take_aborts(self) -> list[str]:
        """Returns the requests that stop strings completed since the last call, and that the engine still runs."""
        aborts, self._aborts = self._aborts, []
        return aborts

    def _take(self, writer: Writer, delta: SequenceDelta, now: float) -> OutputDelta | None:
        output = writer.request_output
        if delta.index == 0:  # the other answers share its prompt, so only its deltas describe it
            output.num_cached_tokens, output.pooled = delta.num_cached_tokens, delta.pooled
            output.metrics.first_scheduled_time = delta.scheduled
        if delta.prompt_logprobs and output.prompt_logprobs is not None:
            output.prompt_logprobs += map(self._map, delta.prompt_logprobs)
        if writer.output.finished():
            return None
        new = writer.write(delta, None if delta.logprobs is None else list(map(self._map, delta.logprobs)))
        if new.token_ids:
            writer.last_token_time = now
            if output.metrics.first_token_time is None:
                output.metrics.first_token_time = now
        if new.finish_reason is not None and all(answer.finished() for answer in output.outputs):
            writers = self._writers.pop(delta.request_id)
            _finish(writers, now)
            if any(not writer.engine_done for writer in writers):
                self._aborts.append(delta.request_id)
        return new

    def _map(self, entry: TokenLogprob) -> LogprobMap:
        chosen = {entry.token_id: Logprob(entry.logprob, entry.rank, self._word(entry.token_id))}
        ranked = enumerate(entry.top, 1)
        return chosen | {
            token: Logprob(value, rank, self._word(token)) for rank, (token, value) in ranked if token not in chosen
        }

    def _word(self, token: int) -> str:
        if token not in self._words:
            self._words[token] = self._tokenizer.token_name(token)
        return self._words[token]


def _finish(writers: list[Writer], now: float) -> None:
    """Completes the output of a request whose last answer has ended."""
    output = writers[0].request_output
    times = [writer.last_token_time for writer in writers if writer.last_token_time is not None]
    output.metrics.last_token_time = max(times, default=None)
    output.finished, output.metrics.finished_time = True, now


class Writer:
    """Writes one answer: detokenises, looks for stop strings, and collects tokens and logprobs.

    plain: tokens that do not end the answer only add text, so `extend` can take them. Nearly all deltas are like that.
    `extend` touches few objects, because the weights have evicted all of them from the caches since the last step.
    """

    __slots__ = (
        "_detokenizer",
        "_min_tokens",
        "_only_text",
        "_pieces",
        "_show_stop",
        "_stops",
        "_token_ids",
        "engine_done",
        "last_token_time",
        "output",
        "plain",
        "request_output",
    )

    def __init__(self, request: Request, index: int, output: RequestOutput, detokenizer: Detokenizer):
        params = request.params
        logprobs: list[LogprobMap] | None = None if params.logprobs is None else []
        self.request_output = output
        self.output = CompletionOutput(index, logprobs=logprobs, cumulative_logprob=None if logprobs is None else 0.0)
        self.plain = False  # the first delta also says how the request started
        self.last_token_time: float | None = None
        self.engine_done = False  # the engine has finished this sequence itself
        self._only_text = not params.stop and params.logprobs is None and params.prompt_logprobs is None
        self._min_tokens = params.min_tokens
        self._show_stop = params.include_stop_str_in_output
        self._detokenizer = detokenizer
        self._token_ids = self.output.token_ids
        self._pieces: list[str] = []  # of the text
        self._stops = StopStrings(params.stop, params.include_stop_str_in_output)

    def extend(self, delta: SequenceDelta, now: float) -> OutputDelta:
        """`write` for a plain delta."""
        token_ids, words = delta.token_ids, self._detokenizer
        text = words.add_one(token_ids[0]) if len(token_ids) == 1 else words.add(token_ids)
        self._pieces.append(text)
        self._token_ids.extend(token_ids)
        self.last_token_time = now
        return OutputDelta(delta.request_id, delta.index, text, token_ids)

    def write(self, delta: SequenceDelta, logprobs: list[LogprobMap] | None) -> OutputDelta:
        """Adds the delta's tokens, up to the one that completes a stop string. Returns what became visible."""
        text, count, known = "", 0, len(self.output.token_ids)
        for count, token in enumerate(delta.token_ids, 1):
            if not (count == len(delta.token_ids) and self._hides_last(delta)):
                text += self._filter(self._detokenizer.add_one(token), known + count - 1)
            if self._stops.found is not None:
                break
        self.engine_done = delta.finished
        if delta.finished and self._stops.found is None:
            text += self._flush(known + count)
        new = self._append(delta, text, delta.token_ids[:count], logprobs and logprobs[:count])
        self.plain = self._only_text and new.finish_reason is None and bool(self.output.token_ids)
        return new

    def end(self, reason: str) -> None:
        """Ends the answer here. Text that was held back is part of it."""
        self._pieces.append(self._flush(len(self.output.token_ids)))
        self._close(reason, None)

    def _hides_last(self, delta: SequenceDelta) -> bool:
        """Whether the last token only marks the end, and is not part of the text."""
        return delta.finish_reason == "stop" and not self._show_stop

    def _filter(self, text: str, written: int) -> str:
        """Returns the part of `text` to show. Stop strings are ignored in the first `min_tokens` tokens."""
        return text if written < self._min_tokens else self._stops.add(text)

    def _flush(self, written: int) -> str:
        return self._filter(self._detokenizer.flush(), written) + self._stops.flush()

    def _append(
        self, delta: SequenceDelta, text: str, token_ids: list[int], logprobs: list[LogprobMap] | None
    ) -> OutputDelta:
        output = self.output
        self._pieces.append(text)
        output.token_ids += token_ids
        if logprobs is not None and output.logprobs is not None and output.cumulative_logprob is not None:
            output.logprobs += logprobs
            output.cumulative_logprob += sum(
                entry[token].logprob for entry, token in zip(logprobs, token_ids, strict=True)
            )
        if self._stops.found is not None:
            self._close("stop", self._stops.found)
        elif delta.finish_reason is not None:
            self._close(delta.finish_reason, delta.stop_reason)
        reasons = (output.finish_reason, output.stop_reason)
        return OutputDelta(delta.request_id, output.index, text, token_ids, logprobs, *reasons)

    def _close(self, reason: str, stop: int | str | None) -> None:
        self.output.text = "".join(self._pieces)
        self.output.finish_reason, self.output.stop_reason = reason, stop
