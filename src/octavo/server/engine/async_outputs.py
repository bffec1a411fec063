"""The outputs that `AsyncLLM.generate` yields: vLLM's RequestOutput, of each of its kinds."""

from __future__ import annotations

import dataclasses

from octavo.outputs import CompletionOutput, OutputDelta, RequestOutput
from octavo.sampling_params import RequestOutputKind
from octavo.server.generation.inbox import Generation, Item


class Outputs:
    """Turns the deltas of one request into outputs of one kind."""

    def __init__(self, generation: Generation, kind: RequestOutputKind):
        self._output = generation.output
        self._delta = kind is RequestOutputKind.DELTA
        self._texts = [""] * len(generation.output.outputs)
        self._ended = False  # the end has been returned

    def take(self, items: list[Item]) -> RequestOutput:
        """The output for new deltas: all that the inbox held, so the request's output has the same tokens."""
        deltas = [delta for _, delta in items]
        for delta in deltas:
            self._texts[delta.index] += delta.text
        self._ended = self._output.finished
        return self._made(_merged(deltas) if self._delta else [self._so_far(answer) for answer in self._output.outputs])

    def last(self) -> RequestOutput | None:
        """The output at the end, if `take` has not returned it: that of a request that was aborted, or FINAL_ONLY."""
        if self._ended:
            return None
        answers = self._output.outputs
        shown = [dataclasses.replace(each, text="", token_ids=[]) for each in answers] if self._delta else answers
        return self._made(shown)

    def _made(self, answers: list[CompletionOutput]) -> RequestOutput:
        return dataclasses.replace(self._output, outputs=answers)

    def _so_far(self, answer: CompletionOutput) -> CompletionOutput:
        logprobs = None if answer.logprobs is None else list(answer.logprobs)
        text = self._texts[answer.index]
        return dataclasses.replace(answer, text=text, token_ids=list(answer.token_ids), logprobs=logprobs)


def _merged(deltas: list[OutputDelta]) -> list[CompletionOutput]:
    """One output for each answer that has new deltas."""
    made: dict[int, CompletionOutput] = {}
    for delta in deltas:
        new = made.setdefault(delta.index, CompletionOutput(delta.index))
        new.text += delta.text
        new.token_ids += delta.token_ids
        if delta.logprobs is not None:
            new.logprobs = [*(new.logprobs or ()), *delta.logprobs]
        new.finish_reason, new.stop_reason = delta.finish_reason, delta.stop_reason
    return list(made.values())
