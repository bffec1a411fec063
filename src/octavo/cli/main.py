"""`octavo`: the command line. A command's module is imported only when that command runs."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from octavo import __version__
from octavo.cli.console import complain
from octavo.errors import OctavoError, lacking_extra


class Command(NamedTuple):
    """A command's module and function, and its line in the list of commands."""

    module: str
    function: str
    help: str


COMMANDS = {
    "run": Command("run", "run", "Answer one prompt."),
    "chat": Command("chat", "chat", "Talk with a model in the terminal."),
    "serve": Command("serve", "serve", "Serve models over HTTP, with a web page."),
    "models": Command("models_cmd", "models", "List models that can be used by name."),
    "pull": Command("pull", "pull", "Download a model."),
    "rm": Command("rm", "rm", "Delete downloaded models."),
    "info": Command("info", "info", "Show what is in a model file."),
    "plan": Command("plan", "plan", "Show how much memory a model needs, and what fits."),
    "build": Command("build", "build", "Pack a model once, for faster starts."),
    "cache ls": Command("cache", "ls", "List the KV caches in a folder."),
    "cache verify": Command("cache", "verify", "Check the KV caches in a folder."),
    "cache clear": Command("cache", "clear", "Delete the KV caches in a folder."),
    "bench": Command("bench", "bench", "Measure prefill and decode speed."),
    "bench limits": Command("bench_limits", "limits", "Measure what this machine can do at most."),
    "bench spec": Command("bench_spec", "spec", "Measure what speculative decoding gains."),
    "bench quality": Command("bench_quality", "quality", "Measure what a smaller KV cache costs in quality."),
    "bench kv": Command("bench_kv", "kv", "Measure KV cache formats, and pools that are too small."),
    "bench serving": Command("bench_serving", "serving", "Put load on a server and measure latencies."),
    "compare": Command("compare", "compare", "Measure Octavo and other engines side by side."),
    "tune layers": Command("tune", "layers", "Choose the layers a model drafts with for itself."),
    "train heads": Command("train", "heads", "Train heads that draft from the hidden state."),
}
# Commands of other programs, and what to use instead.
ELSEWHERE = {
    "quantize": "Octavo runs a model file as it is, so download a GGUF file with the quantisation you want; "
    "`octavo build` packs it for faster starts",
}


# The option parser itself would not go below 50 columns.
HELP_WIDTH = max(20, min(shutil.get_terminal_size().columns, 80) - 2)
SETTINGS = {"help_option_names": ["-h", "--help"], "terminal_width": HELP_WIDTH}


class Sections(TyperCommand):
    """A command whose help lists its options under the titles of their tables."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            plain = "Arguments" if param.param_type_name == "argument" else "Options"
            if (record := param.get_help_record(ctx)) is not None:
                term, text = record
                if len(term) > formatter.width - 2:  # two names of a switch
                    term = term.replace(" / ", " /\n  ")
                sections.setdefault(getattr(param, "rich_help_panel", None) or plain, []).append((term, text))
        for title, records in sections.items():
            with formatter.section(title):
                # On a narrow terminal an explanation stands below its option, not in a column of a few letters.
                formatter.write_dl(records, col_max=min(30, formatter.width // 3))


class Commands(TyperGroup):
    """The commands of the table. Each is imported on use."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        entry = COMMANDS[cmd_name]
        app = typer.Typer(add_completion=False, rich_markup_mode=None)  # None: plain help, rich is never loaded
        app.command(cmd_name, cls=Sections, context_settings=SETTINGS)(
            getattr(import_module(f"octavo.cli.{entry.module}"), entry.function)
        )
        return typer.main.get_command(app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the list in `octavo --help` from the table, without an import of the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


app = typer.Typer(cls=Commands, add_completion=False, rich_markup_mode=None, context_settings=SETTINGS)


@app.callback()
def octavo(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Octavo: LLM inference on the machine you have. `octavo COMMAND --help` explains a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns the exit status: 0, 2 for a user's mistake (one line on stderr), 130 for Ctrl-C.

    Any other error is our bug and keeps its traceback (status 1).
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if " ".join(words[:2]) in COMMANDS:  # the parser takes a name of two words, such as `bench spec`, as one word
        words[:2] = [" ".join(words[:2])]
    if words == ["--version"]:
        print(f"octavo {__version__}")
        return 0
    if hint := misnamed(words[0]):
        complain(hint)
        return 2
    try:
        return int(typer.main.get_command(app)(words, prog_name="octavo", standalone_mode=False) or 0)
    except OctavoError as error:
        complain(str(error))
    except MemoryError:
        settings = "kv_cache_memory, num_kv_blocks or max_model_len"
        complain(f"not enough memory: lower {settings} (`octavo plan MODEL` shows what fits)")
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except ModuleNotFoundError as error:
        if (lacking := lacking_extra(error)) is None:
            raise
        complain(str(lacking))
    except Exception as error:
        usage = getattr(error, "format_message", None)  # exceptions of the option parser have it
        if usage is None:
            raise
        known = f" {words[0]}" if words[0] in COMMANDS else ""
        complain(f"{usage()} (see `octavo{known} --help`)")
    return 2


def misnamed(word: str) -> str | None:
    """Returns the error for a first word that is not a command; None for a command or an option."""
    if word in COMMANDS or word.startswith("-"):
        return None
    if word in ELSEWHERE:
        return f"there is no command {word}: {ELSEWHERE[word]}"
    longer = [name for name in COMMANDS if name.startswith(f"{word} ")]
    close = longer or difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"did you mean `octavo {' or '.join(close)}`?" if close else "`octavo --help` lists them"
    return f"there is no command {word!r}: {hint}"


def entry() -> None:
    """The console script."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone, as in `octavo models | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)


if __name__ == "__main__":
    entry()
