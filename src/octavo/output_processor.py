"""From engine deltas (token ids) to outputs (text). One place for `LLM`, the CLI and the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from octavo.outputs import CompletionOutput, Logprob, LogprobMap, OutputDelta, RequestMetrics, RequestOutput
from octavo.stop_strings import StopStrings
from octavo.tokenizer import Detokenizer, Tokenizer
from octavo.types import Request, SequenceDelta, TokenLogprob


class OutputProcessor:
    """Keeps the requests that are under way; `process` takes each step's deltas.

    Stop strings are found here, as the engine knows no text; `take_aborts` says which requests it may drop because
    all their answers are complete. What still comes for a complete answer is ignored.
    """

    def __init__(self, tokenizer: Tokenizer, clock: Callable[[], float] = time.monotonic):
        self._tokenizer = tokenizer
        self._clock = clock
        self._outputs: dict[str, RequestOutput] = {}
        self._writers: dict[str, list[Writer]] = {}  # one an answer
        self._aborts: list[str] = []
        self._words: dict[int, str] = {}  # token id -> its text alone, for logprobs

    def add(self, request: Request, prompt: str | None = None) -> RequestOutput:
        """From now on deltas of this request are expected. The output returned grows with them until it is `finished`.

        prompt: the text, if the prompt came as text.
        """
        writers = [Writer(request, index, self._tokenizer) for index in range(request.params.n)]
        output = RequestOutput(
            request_id=request.request_id,
            prompt=prompt,
            prompt_token_ids=request.prompt_token_ids,
            prompt_logprobs=None if request.params.prompt_logprobs is None else [None],
            outputs=[writer.output for writer in writers],
            finished=False,
            metrics=RequestMetrics(request.arrival),
        )
        self._outputs[request.request_id], self._writers[request.request_id] = output, writers
        return output

    def process(self, deltas: Iterable[SequenceDelta]) -> list[OutputDelta]:
        """What a step adds to each answer. A request is forgotten as it finishes: who added it has its output."""
        made = (self._take(delta) for delta in deltas)
        return [delta for delta in made if delta is not None]

    def drop(self, request_id: str, reason: str) -> None:
        """Ends a request that the engine need not or cannot end: its unfinished answers get this finish reason.

        Later deltas of it are ignored. Does nothing if the request is unknown or has ended.
        """
        if (output := self._outputs.pop(request_id, None)) is None:
            return
        for writer in self._writers.pop(request_id):
            if not writer.output.finished():
                writer.end(reason)
        output.finished, output.metrics.finished_time = True, self._clock()

    def take_aborts(self) -> list[str]:
        """Requests that stop strings completed since the last call while the engine still works on them."""
        aborts, self._aborts = self._aborts, []
        return aborts

    def _take(self, delta: SequenceDelta) -> OutputDelta | None:
        request_id = delta.request_id
        if (output := self._outputs.get(request_id)) is None:
            return None
        if delta.index == 0:  # the others take the prompt over from it
            output.num_cached_tokens, output.pooled = delta.num_cached_tokens, delta.pooled
            output.metrics.first_scheduled_time = delta.scheduled
        if delta.prompt_logprobs and output.prompt_logprobs is not None:
            output.prompt_logprobs += map(self._map, delta.prompt_logprobs)
        writer = self._writers[request_id][delta.index]
        if writer.output.finished():
            return None
        new = writer.write(delta, None if delta.logprobs is None else list(map(self._map, delta.logprobs)))
        self._measure(output, new)
        if output.finished:
            self._forget(request_id)
        return new

    def _measure(self, output: RequestOutput, new: OutputDelta) -> None:
        now, metrics = self._clock(), output.metrics
        if new.token_ids:
            metrics.last_token_time = now
            if metrics.first_token_time is None:
                metrics.first_token_time = now
        if new.finish_reason is not None and all(answer.finished() for answer in output.outputs):
            output.finished, metrics.finished_time = True, now

    def _forget(self, request_id: str) -> None:
        del self._outputs[request_id]
        if any(not writer.engine_done for writer in self._writers.pop(request_id)):
            self._aborts.append(request_id)

    def _map(self, entry: TokenLogprob) -> LogprobMap:
        chosen = {entry.token_id: Logprob(entry.logprob, entry.rank, self._word(entry.token_id))}
        ranked = enumerate(entry.top, 1)
        return chosen | {
            token: Logprob(value, rank, self._word(token)) for rank, (token, value) in ranked if token not in chosen
        }

    def _word(self, token: int) -> str:
        if token not in self._words:
            self._words[token] = self._tokenizer.decode([token], skip_special=False)
        return self._words[token]


class Writer:
    """Writes one answer: detokenises, looks for stop strings, keeps tokens and logprobs in step with the text."""

    def __init__(self, request: Request, index: int, tokenizer: Tokenizer):
        params = request.params
        logprobs: list[LogprobMap] | None = None if params.logprobs is None else []
        self.output = CompletionOutput(index, logprobs=logprobs, cumulative_logprob=None if logprobs is None else 0.0)
        self.engine_done = False  # the engine has finished this sequence itself
        self._request_id = request.request_id
        self._num_tokens = 0
        self._min_tokens = params.min_tokens
        self._show_stop = params.include_stop_str_in_output
        self._detokenizer = Detokenizer(tokenizer, params.skip_special_tokens)
        self._stops = StopStrings(params.stop, params.include_stop_str_in_output)

    def write(self, delta: SequenceDelta, logprobs: list[LogprobMap] | None) -> OutputDelta:
        """Takes the delta's tokens in, up to the one that completes a stop string, and says what became visible."""
        text, count = "", 0
        for count, token in enumerate(delta.token_ids, 1):
            if not (count == len(delta.token_ids) and self._hides_last(delta)):
                text += self._filter(self._detokenizer.add([token]))
            self._num_tokens += 1
            if self._stops.found is not None:
                break
        self.engine_done = delta.finished
        if delta.finished and self._stops.found is None:
            text += self._flush()
        return self._append(delta, text, delta.token_ids[:count], logprobs and logprobs[:count])

    def end(self, reason: str) -> None:
        """Ends the answer where it is; what was held back is part of it."""
        self.output.text += self._flush()
        self.output.finish_reason = reason

    def _flush(self) -> str:
        return self._filter(self._detokenizer.flush()) + self._stops.flush()

    def _hides_last(self, delta: SequenceDelta) -> bool:
        """The token that ended the sequence is no part of its text."""
        return delta.finish_reason == "stop" and not self._show_stop

    def _filter(self, text: str) -> str:
        """What of this text may be shown; stop strings do not count until `min_tokens` are written."""
        return text if self._num_tokens < self._min_tokens else self._stops.add(text)

    def _append(
        self, delta: SequenceDelta, text: str, token_ids: list[int], logprobs: list[LogprobMap] | None
    ) -> OutputDelta:
        output = self.output
        output.text += text
        output.token_ids += token_ids
        if logprobs is not None and output.logprobs is not None and output.cumulative_logprob is not None:
            output.logprobs += logprobs
            output.cumulative_logprob += sum(
                entry[token].logprob for entry, token in zip(logprobs, token_ids, strict=True)
            )
        if self._stops.found is not None:
            output.finish_reason, output.stop_reason = "stop", self._stops.found
        elif delta.finished:
            output.finish_reason, output.stop_reason = delta.finish_reason, delta.stop_reason
        reasons = (output.finish_reason, output.stop_reason)
        return OutputDelta(self._request_id, output.index, text, token_ids, logprobs, *reasons)
