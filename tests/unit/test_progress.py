"""The progress bar appears on standard error, and only on a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from octavo.offline.progress import progress
from octavo.outputs import OutputDelta


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "enabled"), [(io.StringIO(), True), (Terminal(), False)])
def test_no_bar_where_none_is_wanted_or_seen(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, enabled: bool):
    monkeypatch.setattr(sys, "stderr", stream)
    with progress(2, enabled) as watch:
        assert watch is None
    assert stream.getvalue() == ""


def test_the_bar_counts_answers_and_tokens(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress(2, True) as watch:
        assert watch is not None
        watch([OutputDelta("0", 0, "ab", [1, 2]), OutputDelta("1", 0, "c", [3], finish_reason="stop")])
        watch([OutputDelta("0", 0, "d", [4], finish_reason="length")])
    shown = terminal.getvalue()
    assert "2 of 2" in shown and "4 tokens" in shown
