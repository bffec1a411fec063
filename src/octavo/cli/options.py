"""The options that several commands share: one table for the engine's settings, one for sampling.

A row's default is that of the field it sets (of EngineConfig, of SamplingParams), so there is one truth. A command
takes a table by `@takes(engine=ENGINE)`: it then has these options, and gets their values as one mapping `engine`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import typer

from octavo.config import EngineConfig
from octavo.types import SamplingParams

MODEL_HELP = "A path, an alias (see `octavo models`), or hf:org/repo[:file]."
ModelArgument = Annotated[str, typer.Argument(help=MODEL_HELP)]
ModelOption = Annotated[str, typer.Option("--model", help=MODEL_HELP)]
SystemOption = Annotated[str | None, typer.Option("--system", help="A system message.")]
TemplateOption = Annotated[str | None, typer.Option("--chat-template", help="A Jinja template: a file, or its text.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No figures on standard error.")]

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def size(text: str) -> int:
    """Bytes from "1500000", "800M", "2G", "2GiB": powers of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise typer.BadParameter(f"{text!r} is no size: write bytes, or 800M, or 2G")
    return int(float(match[1]) * UNITS[match[2].upper()])


def speculation(text: str) -> dict[str, Any]:
    """A speculative_config from JSON, or from a method's name alone."""
    if text.strip().isidentifier():
        return {"method": text.strip()}
    try:
        config = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is neither JSON nor a method's name: {error}") from None
    if not isinstance(config, dict):
        raise typer.BadParameter(f"{text!r} is no JSON object")
    return config


def target_itl(text: str) -> float | str | None:
    """Seconds, "auto", or None from "none"."""
    if text in ("auto", "none"):
        return text if text == "auto" else None
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither seconds, nor auto, nor none") from None


def bias(text: str) -> tuple[int, float]:
    """A token id and what is added to its logit, from "1234=-2.5"."""
    try:
        token, value = text.split("=")
        return int(token), float(value)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not of the form TOKEN_ID=BIAS") from None


class Row(NamedTuple):
    """One option. names: where they are not simply --name. parse: from the text, where `type` cannot do it."""

    name: str
    type: Any
    help: str
    names: str = ""
    parse: Callable[[str], Any] | None = None
    metavar: str | None = None


class Table(NamedTuple):
    rows: tuple[Row, ...]
    defaults: Mapping[str, Any]


def _defaults(of: Any, **others: Any) -> dict[str, Any]:
    return {field.name: getattr(of, field.name) for field in dataclasses.fields(of)} | others


ENGINE = Table(
    (
        Row("threads", int | None, "Threads of the engine; by default one for each physical core."),
        Row("isa", str, "Instruction set: auto, amx, avx512, avx2, i8mm, neon or portable."),
        Row("max_model_len", int | None, "Longest sequence in tokens, prompt included; by default what fits."),
        Row("max_num_seqs", int, "Sequences that run at once."),
        Row("max_num_batched_tokens", int, "Tokens of one step; longer prompts are computed in chunks."),
        Row(
            "target_itl",
            str | None,
            "Most seconds between tokens while prompts are computed; auto: twice those without; none: no limit.",
            parse=target_itl,
            metavar="SECONDS",
        ),
        Row("kv_cache_memory", str | None, "Memory for the KV cache, such as 800M or 2G.", parse=size, metavar="SIZE"),
        Row("num_kv_blocks", int | None, "Blocks of the KV cache; goes before --kv-cache-memory."),
        Row("kv_cache_dtype", str, "How keys and values are stored: auto (bf16), f32, bf16 or int8."),
        Row("block_size", int, "Tokens of a block of the KV cache: 16, 32, 64, 128 or 256."),
        Row("kv_cache", str, "paged, or contiguous: the baseline, each sequence reserves its longest length."),
        Row("scheduler", str, "continuous, or static: the baseline, a batch runs until its last sequence ends."),
        Row("policy", str, "Who goes first: priority, fcfs or deadline."),
        Row(
            "enable_prefix_caching",
            bool,
            "Keep the KV cache of prompts, for later prompts that begin alike.",
            "--enable-prefix-caching/--no-prefix-caching",
        ),
        Row(
            "enable_chunked_prefill",
            bool,
            "Compute long prompts in chunks, between the steps of running sequences.",
            "--enable-chunked-prefill/--no-chunked-prefill",
        ),
        Row(
            "speculative_config",
            dict[str, Any] | None,
            'Draft tokens and verify them together: auto, ngram, suffix, or JSON such as {"method": "ngram"}.',
            parse=speculation,
            metavar="JSON",
        ),
        Row("backend", str, "cpu; or reference: numpy, slow, exact; or null: no arithmetic."),
    ),
    _defaults(EngineConfig()),
)

# A server's streams must not stall when a prompt comes; elsewhere most tokens a second count.
SERVED = ENGINE._replace(defaults={**ENGINE.defaults, "target_itl": "auto"})

SAMPLING = Table(
    (
        Row("temperature", float, "0 always takes the most likely token."),
        Row("top_p", float, "Sample from the most likely tokens that hold this share of the probability; 1 is off."),
        Row("top_k", int, "Sample from this many tokens; 0 is off."),
        Row("min_p", float, "Leave out tokens less likely than this share of the most likely one's; 0 is off."),
        Row("typical_p", float, "Locally typical sampling; 1 is off."),
        Row("seed", int | None, "Another seed gives another answer; the same gives the same."),
        Row("max_tokens", int | None, "Longest answer; by default until the model ends it or its context is full."),
        Row("min_tokens", int, "Shortest answer."),
        Row("stop", list[str], "End the answer before this text; may be repeated.", metavar="TEXT"),
        Row("stop_token_ids", list[int], "End the answer at this token; may be repeated.", "--stop-token-id"),
        Row("include_stop_str_in_output", bool, "Keep the stop text.", "--include-stop-str-in-output"),
        Row("ignore_eos", bool, "Write on past the end-of-sequence token.", "--ignore-eos"),
        Row("presence_penalty", float, "Subtracted from the logit of every token of the answer so far."),
        Row("frequency_penalty", float, "The same, times how often the answer has it."),
        Row("repetition_penalty", float, "Divides the logits of tokens in prompt and answer; 1 is off."),
        Row("logit_bias", list[str], "Added to a token's logit; may be repeated.", "", bias, "TOKEN_ID=BIAS"),
        Row("allowed_token_ids", list[int], "Only this token may be written; may be repeated.", "--allowed-token-id"),
        Row("bad_words", list[str], "A text that must not appear; may be repeated.", "--bad-word", metavar="TEXT"),
        Row("skip_special_tokens", bool, "Leave control tokens out of the text.", "--skip-special/--keep-special"),
    ),
    _defaults(SamplingParams(), temperature=0.7, top_p=0.95, max_tokens=None),
)


def takes(**tables: Table) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of the tables; it receives them as one mapping a table, under the given name."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            groups = {name: {row.name: values.pop(row.name) for row in table.rows} for name, table in tables.items()}
            function(**values, **groups)

        own = inspect.signature(function, eval_str=True).parameters.values()
        shared = [_parameter(row, table.defaults[row.name]) for table in tables.values() for row in table.rows]
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.name not in tables]
        parameters += shared
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        return command

    return decorate


def _parameter(row: Row, default: Any) -> inspect.Parameter:
    many = row.type in (list[str], list[int])
    names = row.names or "--" + row.name.replace("_", "-")
    option = typer.Option(
        names, help=row.help, parser=row.parse, metavar=row.metavar, show_default=not many and default is not None
    )
    return inspect.Parameter(
        row.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=list(default or ()) if many else default,
        annotation=Annotated[row.type, option],
    )


def sampling_params(values: Mapping[str, Any]) -> SamplingParams:
    """SamplingParams of the values that a command got for SAMPLING (unchecked, as everywhere before a request)."""
    made: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    made["logit_bias"] = dict(made["logit_bias"])
    made["allowed_token_ids"] = made["allowed_token_ids"] or None
    return SamplingParams(**made)
