"""`octavo run`: one prompt, one answer."""

from __future__ import annotations

import dataclasses
import json
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from octavo.errors import RequestError

if TYPE_CHECKING:
    from octavo.cli.answer import Answer
    from octavo.offline.llm import LLM
    from octavo.processing.inputs import Prompt

SILENT_SECONDS = 1.0  # of waiting for standard input


@takes(sampling=SAMPLING, engine=ENGINE)
def run(
    model: ModelArgument,
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="The prompt. Text on standard input is appended to it; it is the prompt if none is given, or -."
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Read the prompt from this file.")] = None,
    system: SystemOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="Use the prompt as it is, without the chat template.")] = False,
    chat_template: TemplateOption = None,
    logprobs: Annotated[
        int | None,
        typer.Option("--logprobs", metavar="N", help="With --json, print the N most likely tokens at each position."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object when the answer is complete, instead of a stream.")
    ] = False,
    quiet: QuietOption = False,
    *,
    sampling: dict[str, Any],
    engine: dict[str, Any],
) -> None:
    """Answer one prompt. The answer streams to standard output; timings go to standard error.

    `git diff | octavo run MODEL "Review this change:"` asks about a text. If the model has a chat template, the prompt
    is sent as a user message. Otherwise the model continues the text.
    """
    if logprobs is not None and not as_json:
        raise RequestError("logprobs are printed in JSON only: add --json", "logprobs")
    text = read_prompt(prompt, file)
    params = dataclasses.replace(sampling_params(sampling), logprobs=logprobs)

    from octavo.cli import answer as answering
    from octavo.cli.console import note_facts
    from octavo.cli.session import figures, load, since_start

    llm, load_seconds = load(model, engine)
    made = make_prompt(llm, text, system, raw, chat_template)
    answer = answering.stream(llm, made, params, (lambda text: None) if as_json else answering.write)
    first = since_start(answer)
    if as_json:
        print(json.dumps(describe(llm, model, text, answer, load_seconds, first), ensure_ascii=False))
    else:
        answering.write("" if answer.text.endswith("\n") else "\n")
    if not quiet:
        note_facts([*figures(answer), f"first token {first:.2f} s after the start (loading {load_seconds:.2f} s)"])
    llm.shutdown()
    if answer.finish_reason == "error":
        raise RequestError("the engine could not compute an answer: the logits are not finite (NaN or infinity)")
    if answer.interrupted:
        raise typer.Exit(130)


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """Returns the prompt from the argument or the file, with what stands on standard input below it.

    Raises RequestError.
    """
    if file is not None and prompt is not None:
        raise RequestError("give the prompt as an argument or with --file, not both", "prompt")
    given = prompt if file is None else read_file(file)
    if given is None and sys.stdin is not None and sys.stdin.isatty():
        raise RequestError("there is no prompt: give one as an argument, with --file, or on stdin", "prompt")
    asked = given is None or prompt == "-"
    piped = read_stdin(asked)
    text = piped if asked else "\n\n".join(filter(None, (given, piped.strip("\n"))))
    if not text:
        raise RequestError("the prompt is empty", "prompt")
    return text


def read_file(file: Path) -> str:
    try:
        return decode(file.read_bytes(), str(file))
    except OSError as error:
        raise RequestError(f"cannot read the prompt from {file}: {error.strerror}", "prompt") from error


def read_stdin(asked: bool) -> str:
    """Returns the text of standard input; "" without one. A terminal is read only if the user has asked for that.

    A pipe that nobody closes, as under ssh, would keep the user waiting without a word, so there is one.
    """
    if sys.stdin is None or (sys.stdin.isatty() and not asked):
        return ""
    try:
        ready = asked or select.select([sys.stdin], [], [], SILENT_SECONDS)[0]
    except (OSError, ValueError):  # a program that calls us has put something else in its place
        return ""
    if not ready:
        from octavo.cli.console import note

        note("reading standard input, which is appended to the prompt; `< /dev/null` leaves it out")
    return decode(sys.stdin.buffer.read(), "standard input")


def decode(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{source} is not UTF-8 text (byte {error.start})", "prompt") from error


def make_prompt(llm: LLM, text: str, system: str | None, raw: bool, chat_template: str | None) -> Prompt:
    """Renders the text as a user message in the chat template. Without a template or with `raw`, returns the text."""
    from octavo.cli.session import template_of

    template = None if raw else template_of(llm, chat_template)
    if template is None:
        if system is not None:
            raise RequestError("a system message needs a chat template, and this prompt has none", "system")
        return text
    messages = [{"role": "system", "content": system}] if system is not None else []
    return llm.render([*messages, {"role": "user", "content": text}], chat_template=template)


def describe(llm: LLM, model: str, prompt: str, answer: Answer, load_seconds: float, first: float) -> dict[str, Any]:
    """Returns the JSON object of --json. Times are seconds, memory is bytes."""
    from octavo.bench.usage import peak_rss

    logprobs = [[{"token_id": t, **dataclasses.asdict(p)} for t, p in each.items()] for each in answer.logprobs]
    return {
        "model": model,
        "prompt": prompt,
        "text": answer.text,
        "token_ids": answer.token_ids,
        "finish_reason": answer.finish_reason,
        "stop_reason": answer.stop_reason,
        "num_prompt_tokens": answer.num_prompt_tokens,
        "num_cached_tokens": answer.num_cached_tokens,
        "num_output_tokens": len(answer.token_ids),
        **({"logprobs": logprobs} if logprobs else {}),
        "timings": {
            "load_s": round(load_seconds, 4),
            "ttft_s": round(answer.prefill_seconds, 4),
            "decode_s": round(answer.decode_seconds, 4),
            "first_token_after_start_s": round(first, 3),
        },
        "prefill_tok_s": round(answer.prefill_tok_s, 1),
        "decode_tok_s": round(answer.decode_tok_s, 1),
        "memory": {"peak_rss": peak_rss(), **llm.parts.backend.memory()},
    }
