"""What an answer is made of: reasoning, text, and calls of tools."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text for the user: outside reasoning and calls."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """Text that the model writes for itself, before its answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """index: number of the call in the answer, from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of the JSON text of a call's arguments."""

    index: int
    text: str


Part = TextPart | ReasoningPart | CallStart | CallArguments


@dataclass(slots=True)
class Answer:
    """A whole answer. calls: (name of the tool, arguments as JSON text)."""

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)


def joined(parts: Iterable[Part]) -> Answer:
    """Joins the parts of one answer."""
    answer = Answer()
    for part in parts:
        match part:
            case TextPart(text=text):
                answer.content += text
            case ReasoningPart(text=text):
                answer.reasoning += text
            case CallStart(name=name):
                answer.calls.append((name, ""))
            case CallArguments(index=index, text=text):
                name, before = answer.calls[index]
                answer.calls[index] = (name, before + text)
    return answer
