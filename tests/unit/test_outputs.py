"""`OutputProcessor`: token ids in, texts, reasons and logprobs out."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.outputs import OutputDelta, RequestOutput
from octavo.processing.processor import OutputProcessor
from octavo.sampling_params import SamplingParams
from octavo.types import Request, SequenceDelta, TokenLogprob

EOS = 99
VOCABULARY = {
    1: "Hel",
    2: "lo",
    3: " wor",
    4: "ld",
    5: "!",
    6: "\n",
    7: "STOP",
    8: "é".encode()[:1],
    9: "é".encode()[1:],
}


class Words:
    """A tokenizer with a few whole words, two halves of a letter and one special token."""

    space_prefix = False

    def token_bytes(self, token_id: int, skip_special: bool = False) -> bytes:
        if token_id == EOS:
            return b"" if skip_special else b"<eos>"
        piece = VOCABULARY[token_id]
        return piece if isinstance(piece, bytes) else piece.encode()

    def token_name(self, token_id: int) -> str:
        return self.token_bytes(token_id).decode("utf-8", "backslashreplace")


class Talk:
    """One request, and the deltas that the engine would send for it."""

    def __init__(self, n: int = 1, prompt: int = 3, **params: Any):
        self.now = 10.0
        self.processor = OutputProcessor(Words(), clock=lambda: self.now)  # type: ignore[arg-type]
        self.request = Request("r", [1] * prompt, SamplingParams(n=n, **params), arrival=9.0)
        self.output: RequestOutput = self.processor.add(self.request, "prompt")

    def say(
        self, *tokens: int, index: int = 0, reason: str | None = None, stop: int | None = None, **more: Any
    ) -> list[OutputDelta]:
        return self.processor.process([SequenceDelta("r", index, list(tokens), reason, stop, **more)])

    @property
    def answer(self) -> tuple[str, list[int], str | None, int | str | None]:
        first = self.output.outputs[0]
        return first.text, first.token_ids, first.finish_reason, first.stop_reason


def texts(deltas: list[OutputDelta]) -> list[str]:
    return [delta.text for delta in deltas]


def test_text_grows_token_by_token_until_the_length_is_reached():
    talk = Talk()
    assert texts(talk.say(1) + talk.say(2, 3)) == ["Hel", "lo wor"]
    assert not talk.output.finished
    (last,) = talk.say(4, reason="length")
    assert (last.text, last.finish_reason, last.token_ids) == ("ld", "length", [4])
    assert talk.answer == ("Hello world", [1, 2, 3, 4], "length", None)
    assert talk.output.finished and talk.output.prompt == "prompt" and talk.output.prompt_token_ids == [1, 1, 1]
    assert talk.processor.take_aborts() == []


def test_half_a_character_waits_for_the_other_half():
    talk = Talk()
    assert texts(talk.say(8)) == [""]
    assert texts(talk.say(9)) == ["é"]
    assert texts(talk.say(8, reason="length")) == ["\ufffd"]


def test_the_end_token_is_in_the_ids_and_not_in_the_text():
    talk = Talk(skip_special_tokens=False)
    talk.say(1, 2)
    talk.say(EOS, reason="stop")
    assert talk.answer == ("Hello", [1, 2, EOS], "stop", None)


def test_a_stop_token_is_shown_only_on_request():
    for include, text in [(False, "Hello"), (True, "Hello\n")]:
        talk = Talk(stop_token_ids=(6,), include_stop_str_in_output=include)
        talk.say(1, 2, 6, reason="stop", stop=6)
        assert talk.answer == (text, [1, 2, 6], "stop", 6)


def test_special_tokens_inside_are_shown_only_on_request():
    for skip, text in [(True, "Hello"), (False, "Hel<eos>lo")]:
        talk = Talk(skip_special_tokens=skip, ignore_eos=True)
        talk.say(1, EOS, 2, reason="length")
        assert talk.output.outputs[0].text == text


@pytest.mark.parametrize(("include", "text"), [(False, "Hell"), (True, "Hello wor")])
def test_a_stop_string_over_tokens_ends_the_answer_and_frees_the_engine(include: bool, text: str):
    talk = Talk(stop=("o wor",), include_stop_str_in_output=include)
    assert texts(talk.say(1) + talk.say(2)) == ["Hel", "l"], "the beginning of a stop string is held back"
    (last,) = talk.say(3, 4)
    assert (last.finish_reason, last.stop_reason, last.token_ids) == ("stop", "o wor", [3])
    assert talk.answer == (text, [1, 2, 3], "stop", "o wor")
    assert talk.processor.take_aborts() == ["r"]
    assert talk.processor.take_aborts() == []
    assert talk.say(5) == [] and talk.output.outputs[0].text == text, "late deltas are ignored"


def test_text_held_back_comes_out_at_the_end():
    talk = Talk(stop=("lo!",))
    assert texts(talk.say(1, 2)) == ["Hel"]
    assert texts(talk.say(EOS, reason="stop")) == ["lo"]
    assert talk.answer == ("Hello", [1, 2, EOS], "stop", None)


def test_a_stop_string_in_the_last_token_counts_and_needs_no_abort():
    talk = Talk(stop=("ld",))
    talk.say(1, 2, 3, 4, reason="length")
    assert talk.answer == ("Hello wor", [1, 2, 3, 4], "stop", "ld")
    assert talk.processor.take_aborts() == []


def test_stop_strings_do_not_count_before_min_tokens():
    talk = Talk(stop=("STOP",), min_tokens=2)
    talk.say(7, 1)
    talk.say(7)
    assert talk.answer == ("STOPHel", [7, 1, 7], "stop", "STOP")


def test_answers_of_one_request_end_one_by_one():
    talk = Talk(n=2, stop=("!",))
    talk.say(1, index=0), talk.say(3, index=1)
    talk.say(5, index=1)
    assert not talk.output.finished and talk.processor.take_aborts() == []
    talk.say(2, index=0, reason="length")
    assert [(o.index, o.text, o.finish_reason) for o in talk.output.outputs] == [
        (0, "Hello", "length"),
        (1, " wor", "stop"),
    ]
    assert talk.output.finished and talk.processor.take_aborts() == ["r"], "the engine still writes answer 1"


@pytest.mark.parametrize("reason", ["abort", "deadline", "error"])
def test_the_engines_reasons_are_passed_on(reason: str):
    talk = Talk()
    talk.say(1)
    (last,) = talk.say(reason=reason)
    assert last.finish_reason == reason and talk.output.finished


def logprob(token: int, value: float, rank: int, *top: tuple[int, float]) -> TokenLogprob:
    return TokenLogprob(token, value, rank, list(top))


def test_logprobs_map_ids_to_values_ranks_and_words():
    talk = Talk(logprobs=2)
    (delta,) = talk.say(
        1, 2, logprobs=[logprob(1, -0.5, 1, (1, -0.5), (2, -1.0)), logprob(2, -3.0, 7, (4, -0.25), (5, -2.0))]
    )
    answer = talk.output.outputs[0]
    assert answer.logprobs == delta.logprobs
    shown = [[(t, e.logprob, e.rank, e.decoded_token) for t, e in each.items()] for each in answer.logprobs or ()]
    assert shown == [
        [(1, -0.5, 1, "Hel"), (2, -1.0, 2, "lo")],
        [(2, -3.0, 7, "lo"), (4, -0.25, 1, "ld"), (5, -2.0, 2, "!")],
    ]
    assert answer.cumulative_logprob == -3.5


def test_logprobs_end_with_the_tokens_at_a_stop_string():
    talk = Talk(logprobs=0, stop=("lo",))
    talk.say(1, 2, 3, logprobs=[logprob(1, -1.0, 1), logprob(2, -2.0, 1), logprob(3, -4.0, 1)])
    answer = talk.output.outputs[0]
    assert answer.token_ids == [1, 2] and len(answer.logprobs or ()) == 2
    assert answer.cumulative_logprob == -3.0


def test_without_logprobs_there_are_none():
    talk = Talk()
    talk.say(1, reason="length")
    answer = talk.output.outputs[0]
    assert answer.logprobs is None and answer.cumulative_logprob is None and talk.output.prompt_logprobs is None


def test_prompt_logprobs_come_in_chunks_after_a_none():
    talk = Talk(prompt_logprobs=0)
    talk.say(prompt_logprobs=[logprob(1, -1.0, 1)])
    talk.say(2, prompt_logprobs=[logprob(1, -2.0, 3)], reason="length")
    entries = talk.output.prompt_logprobs or []
    assert len(entries) == len(talk.output.prompt_token_ids)
    assert entries[0] is None
    assert [(e[1].logprob, e[1].rank) for e in entries[1:] if e] == [(-1.0, 1), (-2.0, 3)]


def test_metrics_and_cached_tokens():
    talk = Talk()
    talk.say(1, num_cached_tokens=2, scheduled=9.5)
    talk.now = 12.0
    talk.say(2, reason="length", num_cached_tokens=2, scheduled=9.5)
    metrics = talk.output.metrics
    assert (metrics.arrival_time, metrics.first_token_time, metrics.last_token_time) == (9.0, 10.0, 12.0)
    assert metrics.first_scheduled_time == 9.5 and metrics.finished_time == 12.0 and metrics.ttft == 1.0
    assert talk.output.num_cached_tokens == 2


def test_unknown_requests_are_ignored():
    talk = Talk()
    assert talk.processor.process([SequenceDelta("x", 0, [1])]) == []
    talk.processor.drop("x", "abort")


def test_a_dropped_request_ends_and_its_late_deltas_are_ignored():
    talk = Talk(n=2, stop=("lo!",))
    talk.say(1, 2, index=0)
    talk.say(3, index=1, reason="length")
    talk.now = 12.0
    talk.processor.drop("r", "abort")
    first, second = talk.output.outputs
    assert (first.text, first.finish_reason) == ("Hello", "abort"), "text held back belongs to the answer"
    assert (second.text, second.finish_reason) == (" wor", "length")
    assert talk.output.finished and talk.output.metrics.finished_time == 12.0
    assert talk.processor.take_aborts() == [], "who drops it tells the engine"
    assert talk.say(5) == [] and first.token_ids == [1, 2]
