"""A chat in the terminal: its messages, its settings, and the commands that begin with a slash."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from octavo.cli.answer import stream, write
from octavo.cli.console import note
from octavo.cli.options import SAMPLING
from octavo.cli.session import figures
from octavo.errors import CapacityError, RequestError
from octavo.offline.llm import LLM
from octavo.sampling.params import check
from octavo.types import SamplingParams

HELP = """\
/help                 show this list
/clear                start a new conversation; the system message stays
/system [TEXT]        show or set the system message; /system - removes it
/set [NAME VALUE]     show the sampling settings, or set one: /set temperature 0.2
/stats                show what the engine has done so far
/exit                 exit (or press Ctrl-D)"""

REASONS = {
    "abort": "stopped",
    "deadline": "the deadline has passed",
    "error": "the engine could not compute it: the logits are not finite",
}
NUMBERS: dict[Any, Callable[[str], Any]] = {int: int, float: float, int | None: int}


class TerminalChat:
    """The messages and settings of one chat. `take` handles one line of input."""

    def __init__(self, llm: LLM, template: str, params: SamplingParams, system: str | None, quiet: bool):
        self.llm = llm
        self.template = template
        self.params = params
        self.system = system
        self.quiet = quiet
        self.messages: list[dict[str, str]] = []
        self.commands: dict[str, Callable[[str], None]] = {
            "/help": lambda rest: note(HELP),
            "/clear": self.clear,
            "/system": self.set_system,
            "/set": self.set,
            "/stats": self.stats,
        }

    def take(self, line: str) -> bool:
        """Handles one line; returns False on exit. Raises OctavoError for a bad line, which changes nothing."""
        if not line.startswith("/"):
            self.say(line)
            return True
        name, _, rest = line.partition(" ")
        if name in ("/exit", "/quit", "/bye"):
            return False
        if name not in self.commands:
            raise RequestError(f"there is no command {name}: /help lists them")
        self.commands[name](rest.strip())
        return True

    def say(self, text: str) -> None:
        """Sends a user message and streams the answer. Both become part of the conversation."""
        messages = [*self.messages, {"role": "user", "content": text}]
        opening = [{"role": "system", "content": self.system}] if self.system else []
        prompt = self.llm.render([*opening, *messages], chat_template=self.template)
        try:
            answer = stream(self.llm, prompt, self.params, write)
        except CapacityError as error:
            raise CapacityError(f"{error} (the conversation is kept whole: /clear starts a new one)") from error
        write("" if answer.text.endswith("\n") else "\n")
        if reason := self.why(answer.finish_reason, len(answer.token_ids)):
            note(f"({reason})")
        if answer.finish_reason != "error":
            self.messages = [*messages, {"role": "assistant", "content": answer.text}]
        if not self.quiet:
            note(figures(answer))

    def why(self, finish_reason: str | None, length: int) -> str | None:
        """Returns why an answer ended early; None if the model ended it."""
        if finish_reason != "length":
            return REASONS.get(finish_reason or "")
        if length == self.params.max_tokens:
            return f"stopped at max_tokens, {length}: /set max_tokens"
        return (
            f"the context of {self.llm.parts.config.max_model_len} tokens is full: /clear, or a larger --max-model-len"
        )

    def clear(self, rest: str) -> None:
        self.messages = []
        note("(forgotten)")

    def set_system(self, text: str) -> None:
        if text:
            self.system = None if text == "-" else text
        note(f"system: {self.system or '(none)'}")

    def set(self, text: str) -> None:
        """Shows the settings, or changes a numeric one."""
        kinds = {row.name: NUMBERS[row.type] for row in SAMPLING.rows if row.type in NUMBERS}
        if text:
            name, _, value = text.partition(" ")
            if name not in kinds:
                raise RequestError(f"there is no setting {name!r} here: choose from {', '.join(kinds)}", name)
            self.params = check(self._with(name, value.strip(), kinds[name]), self.llm.parts.model.vocab_size)
        note("  ".join(f"{name} {getattr(self.params, name)}" for name in kinds))

    def _with(self, name: str, value: str, kind: Callable[[str], Any]) -> SamplingParams:
        try:
            made: Any = None if value.lower() == "none" else kind(value)
        except ValueError:
            raise RequestError(f"{name} must be a number; got {value!r}", name) from None
        change: dict[str, Any] = {name: made}
        return dataclasses.replace(self.params, **change)

    def stats(self, rest: str) -> None:
        stats, config = self.llm.parts.engine.stats, self.llm.parts.config
        options = "".join(f", {name} {value}" for name, value in config.backend_options.items())
        share = stats.prefix_hits / max(stats.prefix_queries, 1)
        note(
            f"{stats.steps} steps, {stats.prompt_tokens} prompt tokens ({share:.0%} from the cache), "
            f"{stats.generation_tokens} generated; context {config.max_model_len} tokens, "
            f"KV cache {config.num_kv_blocks} blocks of {config.block_size} ({config.kv_cache_dtype}), "
            f"backend {config.backend}{options}"
        )
