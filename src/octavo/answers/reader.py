"""Reads a whole answer: its reasoning first, then tool calls in the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from octavo.answers.parts import Answer, CallArguments, CallStart, Part, TextPart, joined
from octavo.answers.reasoning import Reasoning, ReasoningReader
from octavo.answers.tool_formats import EVERY, Format
from octavo.answers.tool_reader import ToolReader


@dataclass(frozen=True, slots=True)
class Reading:
    """How the answers to one prompt are read.

    reasoning: its form, None if there is none. within: whether the prompt has opened the reasoning.
    tools: the tools that may be called, and whether each takes arguments. form: where their calls are looked for.
    parallel: whether an answer may hold several calls; if not, only the first is reported.
    forced: the answer consists of calls, so the start of one that is cut off is no content.
    """

    reasoning: Reasoning | None = None
    within: bool = False
    tools: Mapping[str, bool] = field(default_factory=dict)
    form: Format = EVERY
    parallel: bool = True
    forced: bool = False

    def reader(self) -> AnswerReader:
        return AnswerReader(self)

    def read(self, text: str) -> Answer:
        """Reads a whole answer."""
        reader = self.reader()
        return joined(reader.feed(text, last=True))


class AnswerReader:
    """Parses one answer as it is generated. The parts joined do not depend on how the text was split."""

    def __init__(self, reading: Reading):
        self._parallel = reading.parallel
        self._reasoning = None if reading.reasoning is None else ReasoningReader(reading.reasoning, reading.within)
        self._tools = ToolReader(reading.form, reading.tools, reading.forced) if reading.tools else None

    @property
    def num_calls(self) -> int:
        return 0 if self._tools is None else self._tools.num_calls

    def feed(self, text: str, last: bool = False) -> list[Part]:
        """Returns the parts that are certain after this text. last: the text ends the answer."""
        parts = self._without_reasoning(text, last)
        if self._tools is not None:
            parts = self._calls_in(self._tools, parts, last)
        return parts

    def _without_reasoning(self, text: str, last: bool) -> list[Part]:
        if self._reasoning is None:
            return [TextPart(text)] if text else []
        return self._reasoning.feed(text) + (self._reasoning.finish() if last else [])

    def _calls_in(self, tools: ToolReader, parts: list[Part], last: bool) -> list[Part]:
        found: list[Part] = []
        for part in parts:
            found += tools.feed(part.text) if isinstance(part, TextPart) else [part]
        found += tools.finish() if last else []
        return found if self._parallel else [part for part in found if not _is_further_call(part)]


def _is_further_call(part: Part) -> bool:
    return isinstance(part, CallStart | CallArguments) and part.index > 0
