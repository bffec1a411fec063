"""The methods that draft from earlier text, against plain searches through it."""

from __future__ import annotations

import random
import time

import pytest

from octavo.sampling_params import SamplingParams
from octavo.spec.ngram import NgramDrafter, NgramIndex
from octavo.spec.proposer import Fixed
from octavo.spec.suffix import SuffixAutomaton, SuffixDrafter
from octavo.spec.suffix_shared import BETWEEN, SharedSuffixDrafter
from octavo.types import Request, Sequence, Status


def text(length: int, letters: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(letters), k=length)


def sequence(tokens: list[int], salt: str = "") -> Sequence:
    request = Request("r", tokens[:1], SamplingParams(max_tokens=None), cache_salt=salt)
    return Sequence(request, 0, tokens, 1, status=Status.RUNNING)


def longest_match(tokens: list[int], most: int) -> tuple[int, int]:
    """The longest suffix that occurred before: (length, latest place where it ended)."""
    for length in range(min(most, len(tokens) - 1), 0, -1):
        for place in range(len(tokens) - 1, length - 1, -1):
            if tokens[place - length : place] == tokens[-length:]:
                return length, place
    return 0, 0


@pytest.mark.parametrize("letters", [2, 4, 30])
def test_ngrams_find_a_longest_match(letters: int) -> None:
    tokens, index = text(300, letters), NgramIndex(2, 5)
    for size in range(1, len(tokens)):
        known = tokens[:size]
        index.extend(known)
        guess = index.lookup(known, 4)
        length, place = longest_match(known, 5)
        if letters == 30 or size < 30:  # else the match may lie before the candidates that are compared
            assert guess.confidence == (length if length >= 2 else 0)
        if guess.tokens and letters == 30:
            following = [
                known[end : end + 4] for end in range(length, size) if known[end - length : end] == known[-length:]
            ]
            assert guess.tokens[: size - place] in [tokens[: size - place] for tokens in following]


def test_a_copy_with_a_change_goes_on_beside_where_it_left_its_source() -> None:
    """A single `1` follows the change. Of all places with a `1`, the one next to the cursor is right, not the last."""
    source = [9, 8, 7, 6, 1, 5, 4, 3]
    tokens, index = [*source, 1, 22, 1, 23, *source[:3], 50], NgramIndex(1, 8)
    index.extend(tokens[:-1])
    assert index.lookup(tokens[:-1], 2).tokens == [6, 1]
    index.extend(tokens)
    tokens.append(1)
    index.extend(tokens)
    assert index.lookup(tokens, 3).tokens == [5, 4, 3]


def test_ngrams_go_on_with_a_period() -> None:
    index, tokens = NgramIndex(2, 8), [7, 1, 2, 3, 1, 2, 3]
    index.extend(tokens)
    assert index.lookup(tokens, 5).tokens == [1, 2, 3, 1, 2]
    assert index.lookup(tokens, 0).tokens == []


def test_ngram_chains_go_different_ways() -> None:
    index, tokens = NgramIndex(1, 4), [5, 1, 9, 5, 2, 9, 5, 3, 9, 5]
    index.extend(tokens)
    assert sorted(chain[0] for chain in index.chains(tokens, 2, 3)) == [1, 2, 3]
    assert len(index.chains(tokens, 2, 2)) == 2


@pytest.mark.parametrize("letters", [1, 2, 3, 20])
def test_the_automaton_knows_every_longest_match(letters: int) -> None:
    tokens, automaton = text(250, letters, seed=1), SuffixAutomaton()
    for size, token in enumerate(tokens, 1):
        automaton.extend([token])
        _, length = automaton.match()
        assert length == longest_match(tokens[:size], size)[0]
    assert len(automaton.lengths) <= 2 * len(tokens) + 1


def test_the_automaton_follows_other_texts_as_far_as_they_occur() -> None:
    known, other = text(300, 3, seed=2), text(200, 3, seed=3)
    automaton = SuffixAutomaton()
    automaton.extend(known)
    joined = "".join(map(str, known))
    state, length = 0, 0
    for size, token in enumerate(other, 1):
        state, length = automaton.follow(state, length, token)
        said = "".join(map(str, other[:size]))
        assert said[size - length :] in joined
        assert length == size or said[size - length - 1 :] not in joined


def test_the_most_frequent_continuation_comes_first() -> None:
    automaton = SuffixAutomaton()
    automaton.extend([1, 2, 3, 0, 1, 2, 4, 0, 1, 2, 3, 9, 1, 2])
    state, length = automaton.match()
    assert length == 2
    assert automaton.continuation(state, 1, 0.0) == [3]
    assert automaton.continuation(state, 1, 0.9) == [], "three times of four is not enough"
    assert [chain[0] for chain in automaton.chains(state, 1, 2, 0.0)] == [3, 4]


def test_a_longer_match_gives_a_longer_draft() -> None:
    (short,) = SuffixDrafter(factor=1.5).draft([sequence([1, 2, 3, 4, 5, 6, 7, 8, 1, 2])], [10])
    (long,) = SuffixDrafter(factor=1.5).draft([sequence([1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4])], [10])
    assert (short.tokens, long.tokens) == ([3, 4, 5], [5, 6, 7, 8, 1, 2])


def test_one_token_in_common_is_not_enough() -> None:
    assert SuffixDrafter().draft([sequence([1, 2, 3, 1])], [4])[0].tokens == []
    assert NgramDrafter().draft([sequence([1, 2, 3, 1])], [4])[0].tokens == []


def finish(drafter: SharedSuffixDrafter, tokens: list[int], salt: str = "", reason: str = "stop") -> None:
    seq = sequence([0, *tokens], salt)
    drafter.draft([seq], [4])
    seq.status, seq.finish_reason = Status.FINISHED, reason
    drafter.draft([sequence([0, 0, 0], salt)], [4])  # a new request makes it look for finished ones


def test_earlier_outputs_help_later_ones_of_the_same_salt_only() -> None:
    drafter = SharedSuffixDrafter(1000)
    finish(drafter, [1, 2, 3, 4, 5], "tenant")
    assert drafter.draft([sequence([9, 1, 2, 3], "tenant")], [4])[0].tokens[:2] == [4, 5]
    assert drafter.draft([sequence([9, 1, 2, 3], "other")], [4])[0].tokens == []
    assert drafter.draft([sequence([9, 1, 2, 3])], [4])[0].tokens == []


def test_the_shared_texts_are_bounded_kept_apart_and_free_of_errors() -> None:
    drafter = SharedSuffixDrafter(40)
    finish(drafter, [1, 2, 3], reason="error")
    assert drafter.draft([sequence([9, 1, 2])], [4])[0].tokens == []
    for salt in range(10):
        finish(drafter, text(18, 50, seed=salt), str(salt))
    assert sum(automaton.size for automaton in drafter._shared.values()) <= 40
    finish(drafter, [1, 2, 3], "a")
    finish(drafter, [4, 5, 6], "a")
    assert BETWEEN not in drafter.draft([sequence([9, 1, 2], "a")], [9])[0].tokens


@pytest.mark.parametrize("make", [NgramDrafter, SuffixDrafter])
def test_a_step_costs_microseconds(make: type) -> None:
    """A generous limit: 200 us per step for a text of 4000 tokens. A search through the text would take 1,000 us."""
    drafter, seq, rest = make(), sequence(text(4000, 300, seed=4)), text(500, 300, seed=5)
    drafter.draft([seq], [8])
    start = time.process_time()
    for token in rest:
        seq.token_ids.append(token)
        drafter.draft([seq], [8])
    assert (time.process_time() - start) / len(rest) < 200e-6


def test_drafts_end_before_the_limit_of_the_sequence() -> None:
    seq = sequence([1, 2, 3, 4, 1, 2])
    seq.max_length = 9
    Fixed(NgramDrafter(), 8).propose([seq])
    assert seq.drafts == [3, 4], "the step itself adds the last one"


def test_states_of_finished_sequences_are_dropped() -> None:
    drafter, first = NgramDrafter(), sequence([1, 2, 1, 2])
    drafter.draft([first], [2])
    first.status = Status.FINISHED
    drafter.draft([sequence([1, 2, 1, 2])], [2])
    assert len(drafter._indexes) == 1
