"""Reasoning, text and calls together: no answer depends on where it is cut, and no text is lost."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.answers.parts import joined
from octavo.answers.reader import Reading
from octavo.answers.reasoning import REASONING
from octavo.answers.tool_formats import EVERY, HERMES, LLAMA, MISTRAL

PIECES = [
    "<think>", "</think>", "<thi", "</", "\n", " ", "Hm", "[THINK]", "[/THINK]", "<tool_call>", "</tool_call>", "```",
    "```json\n", '{"name": "f", "arguments": {"x": 1}}', '{"name": "now"}', "{", "}", '"', "[", "[TOOL_CALLS]",
]  # fmt: skip

readings = st.builds(
    Reading,
    reasoning=st.sampled_from([*REASONING.values()]),
    within=st.booleans(),
    tools=st.sampled_from([{}, {"f": True, "now": False}]),
    form=st.sampled_from([EVERY, HERMES, LLAMA, MISTRAL]),
    parallel=st.booleans(),
)


@settings(max_examples=80, deadline=None)
@given(readings, st.lists(st.sampled_from(PIECES), max_size=12), st.data())
def test_no_answer_depends_on_where_it_is_cut(reading: Reading, pieces: list[str], data: Any) -> None:
    text = "".join(pieces)
    whole = reading.read(text)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    for parts in (list(text), [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]):
        reader = reading.reader()
        assert joined([part for piece in parts for part in reader.feed(piece)] + reader.feed("", last=True)) == whole
    if reading.reasoning is None and not whole.calls:
        assert whole.content == text
    assert reading.parallel or len(whole.calls) <= 1
