"""`octavo chat`: a chat in the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
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

    Ctrl-C stops an answer, Ctrl-D exits, /help lists the commands. A pasted text is one message.
    """
    from octavo.cli.console import complain, note
    from octavo.cli.conversation import TerminalChat
    from octavo.cli.session import load, template_of
    from octavo.cli.typed import entries
    from octavo.errors import OctavoError, TokenizerError
    from octavo.sampling.params import check

    llm, seconds = load(model, engine)
    template = template_of(llm, chat_template)
    if template is None:
        raise TokenizerError(f"{model} has no chat template: give one with --chat-template, or use `octavo run`")
    params = check(sampling_params(sampling), llm.parts.model.vocab_size)
    talk = TerminalChat(llm, template, params, system, quiet)
    note(f"{llm.parts.model.name}, loaded in {seconds:.1f} s. /help lists the commands, Ctrl-D exits.")
    with line_editor() as read:
        for entry in entries(read):
            try:
                if not talk.take(entry):
                    break
            except OctavoError as error:  # the chat continues
                complain(str(error))
    llm.shutdown()


@contextmanager
def line_editor() -> Iterator[Callable[[str], str]]:
    """Yields a function that reads a line; see `typed.entries`.

    On a terminal it has arrow keys and earlier lines, which are saved in the cache folder if it is writable.
    """
    from octavo.cli.typed import read_line, read_pasted

    if not sys.stdin.isatty():
        yield read_line
        return
    try:
        import readline
    except ImportError:  # this Python was built without it
        yield read_pasted
        return
    from contextlib import suppress

    from octavo.weights.aliases import home

    file = home() / "chat_history"
    with suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield input if marks_pastes() else read_pasted
    finally:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            readline.write_history_file(file)


def marks_pastes() -> bool:
    """Asks the terminal to mark what is pasted (bracketed paste), so that a text of several lines is read as one.

    Returns False if that cannot be: libedit, which some builds of Python use for readline, does not know it.
    """
    import readline

    if "libedit" in (readline.__doc__ or "") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    readline.parse_and_bind("set enable-bracketed-paste on")  # Python turns it off
    return True
