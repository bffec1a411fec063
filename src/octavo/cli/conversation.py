"""A chat in the terminal: its messages, its settings, and the commands that begin with a slash."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from octavo.bar import terminal_width
from octavo.cli import layout, sampling_text, saved_chat
from octavo.cli.answer import stream, write
from octavo.cli.console import note, note_facts
from octavo.cli.session import figures
from octavo.cli.typed import QUOTES, Entry
from octavo.errors import CapacityError, RequestError
from octavo.offline.llm import LLM
from octavo.sampling.params import check
from octavo.sampling_params import SamplingParams

HELP = (
    ("/help", "show this list"),
    ("/clear", "start a new conversation; the system message stays"),
    ("/regenerate", "answer the last message again"),
    ("/system [TEXT]", "show or set the system message; /system - removes it"),
    ("/set [NAME VALUE]", "show the sampling settings, or set one: /set temperature 0.2"),
    ("/save FILE", "save the conversation and its settings as JSON"),
    ("/load FILE", "continue a saved conversation"),
    ("/stats", "show what the engine has done so far"),
    ("/exit", "exit (or press Ctrl-D)"),
    (QUOTES, "begin and end a message of several lines"),
    ("\\", "at the end of a line: the message continues"),
)
REASONS = {
    "abort": "stopped",
    "deadline": "the deadline has passed",
    "error": "the engine could not compute it: the logits are not finite",
}


class TerminalChat:
    """The messages and settings of one chat. `take` handles one entry."""

    def __init__(self, llm: LLM, template: str, params: SamplingParams, system: str | None, quiet: bool):
        self.llm = llm
        self.template = template
        self.params = params
        self.system = system
        self.quiet = quiet
        self.messages: list[dict[str, Any]] = []
        self.commands: dict[str, Callable[[str], None]] = {
            "/help": self.help,
            "/clear": self.clear,
            "/regenerate": self.regenerate,
            "/system": self.set_system,
            "/set": self.set,
            "/save": self.save,
            "/load": self.load,
            "/stats": self.stats,
        }

    def take(self, entry: Entry) -> bool:
        """Handles an entry; returns False on exit. Raises OctavoError for a bad one, which changes nothing."""
        if not entry.command:
            self.answer([*self.messages, {"role": "user", "content": entry.text}])
            return True
        if entry.command in ("/exit", "/quit", "/bye"):
            return False
        if entry.command not in self.commands:
            message = f"to send a message that begins with a slash, put it between {QUOTES}"
            raise RequestError(f"there is no command {entry.command}: /help lists them; {message}")
        self.commands[entry.command](entry.text)
        return True

    def answer(self, messages: list[dict[str, Any]]) -> None:
        """Streams the answer to the messages. They become the conversation, together with it."""
        prompt = self.llm.render([*self.opening(), *messages], chat_template=self.template)
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
            note_facts(figures(answer))

    def opening(self) -> list[dict[str, Any]]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def why(self, finish_reason: str | None, length: int) -> str | None:
        """Returns why an answer ended early; None if the model ended it."""
        if finish_reason != "length":
            return REASONS.get(finish_reason or "")
        if length == self.params.max_tokens:
            return f"stopped at max_tokens, {length}: /set max_tokens"
        return (
            f"the context of {self.llm.parts.config.max_model_len} tokens is full: /clear, or a larger --max-model-len"
        )

    def help(self, rest: str) -> None:
        note(layout.definitions(HELP, terminal_width(sys.stderr)))

    def clear(self, rest: str) -> None:
        self.messages = []
        note("(forgotten)")

    def regenerate(self, rest: str) -> None:
        """Answers the last message again. The request's own number makes another answer of it, unless that is fixed."""
        messages = self.messages[:-1] if self.messages and self.messages[-1]["role"] == "assistant" else self.messages
        if not messages:
            raise RequestError("there is no message to answer yet")
        if self.params.temperature == 0 or self.params.seed is not None:
            note("(the same again: set temperature above 0, and seed to none, for another answer)")
        self.answer(messages)

    def set_system(self, text: str) -> None:
        if text:
            self.system = None if text == "-" else text
        note(f"system: {self.system or '(none)'}")

    def set(self, text: str) -> None:
        """Shows the settings, or changes one."""
        if text:
            name, _, value = text.partition(" ")
            params = sampling_text.changed(self.params, name, value.strip())
            self.params = check(params, self.llm.parts.model.vocab_size)
        note_facts(sampling_text.shown(self.params))

    def save(self, name: str) -> None:
        messages = [*self.opening(), *self.messages]
        path = saved_chat.save(name, self.llm.parts.model.name, messages, sampling_text.values_of(self.params))
        note(f"saved in {path}")

    def load(self, name: str) -> None:
        messages, settings = saved_chat.load(name)
        params = sampling_text.with_values(self.params, settings)
        self.params = check(params, self.llm.parts.model.vocab_size)
        opens = bool(messages) and messages[0]["role"] == "system"
        self.system = messages[0]["content"] if opens else None
        self.messages = messages[1:] if opens else messages
        note(f"{len(self.messages)} messages loaded")
        note_facts(sampling_text.shown(self.params))

    def stats(self, rest: str) -> None:
        stats, config = self.llm.parts.engine.stats, self.llm.parts.config
        options = [f"{name} {value}" for name, value in config.backend_options.items()]
        share = stats.prefix_hits / max(stats.prefix_queries, 1)
        note_facts(
            [
                f"{stats.steps} steps",
                f"{stats.prompt_tokens} prompt tokens ({share:.0%} from the cache)",
                f"{stats.generation_tokens} generated",
                f"context {config.max_model_len} tokens",
                f"KV cache {config.num_kv_blocks} blocks of {config.block_size} ({config.kv_cache_dtype})",
                f"backend {config.backend}",
                *options,
            ]
        )
