"""The lean path of `OutputProcessor` against the full one, on random requests: the same deltas, outputs and metrics."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from octavo.outputs import OutputDelta, RequestOutput
from octavo.processing import processor as output_processor
from octavo.processing.processor import OutputProcessor, Writer
from octavo.sampling_params import SamplingParams
from octavo.tokenizer import Tokenizer
from octavo.types import Request, SequenceDelta, TokenLogprob
from octavo.weights.gguf import open_gguf
from tests.models import model_path
from tests.unit.tokenizer.tiny import byte_level, sentencepiece

TEXTS = ("Hello wörld", "日本語 🙂🙂", "no end", "<|im_end|>", "\n\n", " a", "é", "🙂", "STOP", "\u2028", " ")
REASONS = ("stop", "stop", "length", "length", "abort", "deadline", "error")
EVERYTHING = {"stop", "logprobs", "prompt_logprobs"}  # requests that the lean path does not handle


@pytest.fixture(scope="module", params=["bytes", "sentencepiece", "smollm2-135m"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "bytes":
        return Tokenizer.from_gguf(byte_level())
    if request.param == "sentencepiece":
        return Tokenizer.from_gguf(sentencepiece())
    with open_gguf(model_path(request.param)) as file:
        return Tokenizer.from_gguf(file.metadata)


class Full(Writer):
    """A writer that takes the full path for every delta."""

    plain = property(lambda self: False, lambda self, value: None)  # type: ignore[assignment]


@pytest.fixture
def extended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one entry for each delta that takes the lean path."""
    counts: list[int] = []
    extend = Writer.extend

    def counting(self: Writer, delta: SequenceDelta, now: float) -> OutputDelta:
        counts.append(len(delta.token_ids))
        return extend(self, delta, now)

    monkeypatch.setattr(Writer, "extend", counting)
    return counts


def ids_of(tokenizer: Tokenizer, rng: random.Random) -> list[int]:
    """The tokens of a text. Some are missing, so that characters are cut, and some are replaced by random ones."""
    text = "".join(rng.choices(TEXTS, k=rng.randint(1, 8)))
    known = [i for character in text for i in tokenizer.encode(character, add_special=False)]
    strange = [*tokenizer.special_ids, tokenizer.vocab_size + 3, *range(min(300, tokenizer.vocab_size))]
    kept = [i for i in known if rng.random() < 0.95]
    return [i if rng.random() < 0.9 else rng.choice(strange) for i in kept] or [known[0]]


def params_of(rng: random.Random, wanted: frozenset[str]) -> SamplingParams:
    return SamplingParams(
        n=rng.choice([1, 1, 2, 3]),
        stop=tuple(rng.sample(["é", "🙂🙂", "STOP", " a", "no", "\n"], rng.randint(1, 3))) if "stop" in wanted else (),
        include_stop_str_in_output=rng.random() < 0.5,
        min_tokens=rng.choice([0, 0, 2, 5]),
        logprobs=rng.choice([0, 2]) if "logprobs" in wanted else None,
        prompt_logprobs=1 if "prompt_logprobs" in wanted else None,
        skip_special_tokens=rng.random() < 0.5,
    )


def logprobs_of(ids: list[int], rng: random.Random) -> list[TokenLogprob]:
    return [TokenLogprob(i, -rng.random(), rng.randint(1, 9), [(5, -0.1), (i, -0.2)][: rng.randint(0, 2)]) for i in ids]


def deltas_of(request: Request, index: int, tokenizer: Tokenizer, rng: random.Random) -> Iterator[SequenceDelta]:
    """Possible deltas of one sequence, most with one token. The finish reason comes with the last token, or after it if
    something other than a token ended the sequence."""
    ids, facts = ids_of(tokenizer, rng), {"num_cached_tokens": index, "scheduled": 1.5}
    if index == 0 and request.params.prompt_logprobs is not None:
        yield SequenceDelta(request.request_id, 0, [], prompt_logprobs=logprobs_of([7, 8], rng), **facts)
    while True:
        size = rng.choice([1, 1, 1, 2, 4])
        now, ids = ids[:size], ids[size:]
        made: dict[str, Any] = dict(facts)
        if request.params.logprobs is not None:
            made["logprobs"] = logprobs_of(now, rng)
        if not ids and (reason := rng.choice(REASONS)) in ("stop", "length"):
            stop = rng.choice([None, now[-1]]) if reason == "stop" else None
            yield SequenceDelta(request.request_id, index, now, reason, stop, **made)
            return
        yield SequenceDelta(request.request_id, index, now, **made)
        if not ids:
            yield SequenceDelta(request.request_id, index, [], reason, **facts)
            return


def steps_of(requests: list[Request], tokenizer: Tokenizer, rng: random.Random) -> list[list[SequenceDelta]]:
    """Steps, each with deltas of some of the unfinished sequences."""
    streams = [list(deltas_of(r, i, tokenizer, rng)) for r in requests for i in range(r.params.n)]
    steps = []
    while streams := [stream for stream in streams if stream]:
        steps.append([stream.pop(0) for stream in streams if rng.random() < 0.8])
    return steps


def run(
    tokenizer: Tokenizer, requests: list[Request], steps: list[list[SequenceDelta]]
) -> tuple[list[RequestOutput], list[list[OutputDelta]], list[list[str]]]:
    now = 0.0
    processor = OutputProcessor(tokenizer, clock=lambda: now)
    outputs = [processor.add(request) for request in requests]
    made, aborts = [], []
    for step in steps:
        now += 1.0
        made.append(processor.process(step))
        aborts.append(processor.take_aborts())
    return outputs, made, aborts


@pytest.mark.parametrize("seed", range(40))
def test_both_paths_say_the_same(
    tokenizer: Tokenizer, seed: int, extended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    wanted = [frozenset(rng.sample(sorted(EVERYTHING), rng.choice([0, 0, 0, 1, 2]))) for _ in range(6)]
    requests = [Request(f"r{i}", [1, 2, 3], params_of(rng, each), arrival=0.0) for i, each in enumerate(wanted)]
    steps = steps_of(requests, tokenizer, rng)
    lean = run(tokenizer, requests, steps)
    assert bool(extended) == any(not each for each in wanted)
    extended.clear()
    monkeypatch.setattr(output_processor, "Writer", Full)
    assert run(tokenizer, requests, steps) == lean
    assert not extended
    for request, output in zip(requests, lean[0], strict=True):
        assert output.finished
        for answer in output.outputs:
            if not request.params.stop and answer.finish_reason != "stop":
                skip = request.params.skip_special_tokens
                assert answer.text == tokenizer.decode(answer.token_ids, skip, after=output.prompt_token_ids)
