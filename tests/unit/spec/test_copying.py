"""Copies with changes: drafting resumes at the right place, and a change that was made once is made again."""

from __future__ import annotations

from octavo.spec.copying import Copying
from octavo.spec.ngram import NgramDrafter, NgramIndex
from octavo.spec.proposer import Guess
from tests.unit.spec.test_context import sequence

SOURCE = [*range(100, 110), 7, *range(110, 120), 7, *range(120, 130), 99]  # 7 is a name


def guess(tokens: list[int], limit: int = 3) -> Guess:
    """The guess after a lookup at every token, as when a text is written token by token."""
    index = NgramIndex(1, 16)
    for end in range(len(SOURCE), len(tokens) + 1):
        index.extend(tokens[:end])
        found = index.lookup(tokens[:end], limit)
    return found


def test_after_a_replaced_token_it_goes_on_behind_it_though_nothing_matches() -> None:
    assert guess([*SOURCE, *range(100, 110), 50, 51]).tokens == [110, 111, 112]


def test_nothing_is_guessed_without_a_match_where_more_than_one_token_must_match() -> None:
    index, tokens = NgramIndex(2, 16), [*SOURCE, *range(100, 110), 50]
    for end in range(len(SOURCE), len(tokens) + 1):
        index.extend(tokens[:end])
        found = index.lookup(tokens[:end], 3)
    assert found.tokens == []


def test_a_change_is_made_again() -> None:
    renamed = [*SOURCE, *range(100, 110), 50, 51, *range(110, 120)]
    assert guess(renamed, 4).tokens == [50, 51, 120, 121]


def test_a_change_that_was_not_made_again_is_forgotten() -> None:
    index = Copying()
    tokens = [*SOURCE, *range(100, 110), 50, 110, 111, 112]
    index.follow(tokens[: len(SOURCE) + 3])
    index.settle(tokens[: len(SOURCE) + 3], 3, 3)
    index.follow(tokens)
    index.settle(tokens, 14, 3)
    assert index.changed([7, 8], 5) == [50, 8]
    index.follow(tokens := [*tokens, *range(113, 120), 7])
    assert index.changed([7, 8], 5) == [7, 8]


def test_places_a_little_behind_where_the_copy_left_are_all_as_near() -> None:
    index = Copying()
    assert index.resumption is None and index.distance(4) > index.distance(5)
    tokens = [*SOURCE, *range(100, 104)]
    index.follow(tokens)
    index.settle(tokens, 4, 4)
    assert (index.distance(4), index.distance(6), index.distance(1)) == (0, 2, 3)
    index.follow([*tokens, 50, 51])
    assert index.resumption == 5
    assert [index.distance(place) for place in (3, 4, 7, 8)] == [1, 0, 0, 1]


def test_a_margin_makes_drafts_as_long_as_the_match_is_sure() -> None:
    text = sequence([1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 4])
    assert NgramDrafter(1, 16).draft([text], [5])[0].tokens == [5, 6, 7, 8, 9]
    assert NgramDrafter(1, 16, margin=1).draft([text], [5])[0].tokens == [5, 6, 7]
