"""Separates a model's reasoning from its answer.

    qwen3         <think>...</think> at the start of the answer, or no reasoning: Qwen 3, SmolLM 3 and others
    deepseek_r1   the answer begins with reasoning, even without <think>: DeepSeek R1 and models distilled from it
    mistral       [THINK]...[/THINK] at the start of the answer: Magistral
    none          everything is the answer

The names are vLLM's, except none.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from octavo.answers.parts import Part, ReasoningPart, TextPart
from octavo.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Reasoning:
    """opens, closes: the tags around reasoning. at_once: whether an answer begins with reasoning without the tag."""

    opens: str
    closes: str
    at_once: bool = False


REASONING: dict[str, Reasoning | None] = {
    "qwen3": Reasoning("<think>", "</think>"),
    "deepseek_r1": Reasoning("<think>", "</think>", at_once=True),
    "mistral": Reasoning("[THINK]", "[/THINK]"),
    "none": None,
}


def reasoning_for(template: str, name: str = "auto") -> Reasoning | None:
    """The parser of that name; for "auto", the one that suits a model's chat template. Raises ConfigError."""
    if check_name(name) != "auto":
        return REASONING[name]
    if "[THINK]" in template:
        return REASONING["mistral"]
    return REASONING["qwen3"] if "</think>" in template or "<think>" in template else None


def check_name(name: str) -> str:
    """Returns the name. Raises ConfigError if there is no such parser."""
    if name != "auto" and name not in REASONING:
        raise ConfigError(f"reasoning_parser must be auto, {', '.join(REASONING)}; got {name!r}")
    return name


def opened_by(prompt: str, reasoning: Reasoning) -> bool:
    """Whether the answer to a prompt begins within reasoning: some templates write the opening tag themselves."""
    end = prompt.rstrip()
    return end.endswith(reasoning.opens) or (reasoning.at_once and not end.endswith(reasoning.closes))


def opened_in(message: str, reasoning: Reasoning) -> bool:
    """Whether a message that the answer continues has opened reasoning and not closed it."""
    return message.rfind(reasoning.opens) > message.rfind(reasoning.closes)


class _State(Enum):
    START = auto()  # reasoning may begin
    WITHIN = auto()
    AFTER = auto()  # between reasoning and the answer: white space is dropped
    ANSWER = auto()


class ReasoningReader:
    """Parses one answer. `feed` takes text, `finish` ends it. The parts joined do not depend on how the text was split.

    within: whether the prompt has opened the reasoning. White space around the tags is dropped.
    """

    def __init__(self, form: Reasoning, within: bool):
        self._form = form
        self._within = within
        self._state = _State.START
        self._text = ""  # not parsed yet

    def feed(self, text: str) -> list[Part]:
        self._text += text
        parts: list[Part] = []
        while self._text and self._advance(parts):
            pass
        return parts

    def finish(self) -> list[Part]:
        """Ends the answer: what was held back is reported."""
        rest, self._text = self._text, ""
        if self._state is _State.WITHIN or (self._state is _State.START and self._within):
            kept = rest.strip() if self._state is _State.START else rest.rstrip()
            return [ReasoningPart(kept)] if kept else []
        opened = self._state is _State.START and rest.lstrip().startswith(self._form.opens)
        return [TextPart(rest)] if rest and not opened and self._state is not _State.AFTER else []

    def _advance(self, parts: list[Part]) -> bool:
        match self._state:
            case _State.START:
                return self._start()
            case _State.WITHIN:
                return self._read_reasoning(parts)
            case _State.AFTER:
                self._text = self._text.lstrip()
                self._state = _State.ANSWER if self._text else _State.AFTER
                return bool(self._text)
            case _State.ANSWER:
                parts.append(TextPart(self._text))
                self._text = ""
                return False

    def _start(self) -> bool:
        text = self._text.lstrip()
        if text.startswith(self._form.opens):
            rest = text[len(self._form.opens) :].lstrip()
            if rest:  # else white space may follow, which is dropped too
                self._text, self._state = rest, _State.WITHIN
            return bool(rest)
        if self._form.opens.startswith(text):
            return False
        self._state = _State.WITHIN if self._within else _State.ANSWER
        self._text = text if self._within else self._text
        return True

    def _read_reasoning(self, parts: list[Part]) -> bool:
        before, tag, after = self._text.partition(self._form.closes)
        if tag:
            self._text, self._state = after, _State.AFTER
            if kept := before.rstrip():
                parts.append(ReasoningPart(kept))
            return True
        held = len(before) - len(_certain(before, self._form.closes))
        certain, self._text = before[: len(before) - held], before[len(before) - held :]
        if certain:
            parts.append(ReasoningPart(certain))
        return False


def _certain(text: str, tag: str) -> str:
    """The text without white space at its end, and without what may be the start of `tag`."""
    longest = min(len(text), len(tag) - 1)
    held = next((size for size in range(longest, 0, -1) if text.endswith(tag[:size])), 0)
    return text[: len(text) - held].rstrip()
