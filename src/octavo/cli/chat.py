"""`octavo chat`: a chat in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from octavo.cli.options import (
    ENGINE,
    SAMPLING,
    ModelArgument,
    QuietOption,
    SystemOption,
    TemplateOption,
    sampling_params,
    takes,
)

HISTORY_LINES = 1000


@takes(sampling=SAMPLING, engine=ENGINE)
def chat(
    model: ModelArgument,
    system: SystemOption = None,
    chat_template: TemplateOption = None,
    quiet: QuietOption = False,
    *,
    sampling: dict[str, Any],
    engine: dict[str, Any],
) -> None:
    """Talk with a model in the terminal. Each turn computes only its new tokens; the rest is in the KV cache.

    Ctrl-C stops an answer, Ctrl-D exits, /help lists the commands.
    """
    from octavo.cli.console import complain, note
    from octavo.cli.conversation import TerminalChat
    from octavo.cli.session import load, template_of
    from octavo.errors import OctavoError, TokenizerError
    from octavo.sampling.params import check

    llm, seconds = load(model, engine)
    template = template_of(llm, chat_template)
    if template is None:
        raise TokenizerError(f"{model} has no chat template: give one with --chat-template, or use `octavo run`")
    params = check(sampling_params(sampling), llm.parts.model.vocab_size)
    talk = TerminalChat(llm, template, params, system, quiet)
    note(f"{llm.parts.model.name}, loaded in {seconds:.1f} s. /help lists the commands, Ctrl-D exits.")
    with history():
        for line in lines():
            try:
                if not talk.take(line):
                    break
            except OctavoError as error:  # the chat continues
                complain(str(error))
    llm.shutdown()


def lines() -> Iterator[str]:
    """Yields the lines that the user types, except blank ones, until Ctrl-D. Ctrl-C drops the current line."""
    while True:
        try:
            line = input(">>> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        if line:
            yield line


@contextmanager
def history() -> Iterator[None]:
    """Enables arrow keys and earlier lines. The lines are saved in the cache folder if it is writable."""
    try:
        import readline
    except ImportError:  # this Python was built without it
        yield
        return
    from contextlib import suppress

    from octavo.weights.aliases import home

    file = home() / "chat_history"
    with suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            readline.write_history_file(file)
