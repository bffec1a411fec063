"""Stop strings over pieces of text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.processing.stop_strings import StopStrings


def feed(stops: StopStrings, pieces: list[str]) -> list[str]:
    shown = []
    for piece in pieces:
        shown.append(stops.add(piece))
        if stops.found is not None:
            return shown
    return [*shown, stops.flush()]


def test_text_without_stop_strings_passes_at_once():
    assert feed(StopStrings(()), ["a", "", "b"]) == ["a", "", "b", ""]


def test_a_stop_string_over_several_pieces_is_never_shown():
    stops = StopStrings(("STOP",))
    assert feed(stops, ["go S", "TO", "P and on"]) == ["go ", "", ""]
    assert stops.found == "STOP"


def test_what_only_looked_like_a_stop_string_is_shown_later():
    assert feed(StopStrings(("STOP",)), ["go ST", "AY", " S"]) == ["go ", "STAY", " ", "S"]


def test_held_text_may_itself_begin_a_stop_string_again():
    assert feed(StopStrings(("aab",)), ["aa", "a", "b!"]) == ["", "a", ""]


def test_the_stop_string_is_shown_on_request_and_nothing_after_it():
    stops = StopStrings(("\n\n",), include=True)
    assert feed(stops, ["a\n", "\nb"]) == ["a", "\n\n"]


def test_the_first_in_the_text_wins():
    stops = StopStrings(("later", "now"))
    assert feed(stops, ["now or later"]) == [""]
    assert stops.found == "now"


@pytest.mark.parametrize("include", [False, True])
@given(
    text=st.text("ab", max_size=30),
    stop_list=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30)),
)
def test_cutting_the_text_differently_changes_nothing(text: str, stop_list: list[str], cuts: list[int], include: bool):
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    at_once, one_by_one = StopStrings(tuple(stop_list), include), StopStrings(tuple(stop_list), include)
    assert "".join(feed(at_once, pieces)) == "".join(feed(one_by_one, list(text)))
    assert at_once.found == one_by_one.found
    assert (at_once.found is not None) == any(stop in text for stop in stop_list)


@given(text=st.text("ab", max_size=30), stop_list=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_shown_text_ends_where_a_stop_string_begins(text: str, stop_list: list[str]):
    stops = StopStrings(tuple(stop_list))
    shown = "".join(feed(stops, list(text)))
    assert text.startswith(shown + (stops.found or ""))
    assert not any(stop in shown for stop in stop_list)
