"""The options that several commands share: one table for the engine's settings, one for sampling.

A row's default comes from the field that it sets (in EngineConfig or SamplingParams), so it is stated once. With
`@takes(engine=ENGINE)` a command gets the table's options, and their values as one mapping `engine`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import typer

from octavo.backends.cpu.device import DEVICE as CPU
from octavo.backends.cuda.device import DEVICE as CUDA
from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.sampling_params import SamplingParams

MODEL_HELP = "A model file or folder, an alias from `octavo models`, or hf:org/repo[:file]."
ModelArgument = Annotated[str, typer.Argument(help=MODEL_HELP)]
# Of commands that also take the model as --model, as scripts for other engines give it.
GivenModel = Annotated[str | None, typer.Argument(help=MODEL_HELP, show_default=False)]
ModelOption = Annotated[str | None, typer.Option("--model", help="The same as the argument MODEL.")]
SystemOption = Annotated[str | None, typer.Option("--system", help="System message to put before the conversation.")]
TemplateOption = Annotated[
    str | None,
    typer.Option("--chat-template", help="Jinja chat template to use instead of the model's: a file, or its text."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print no figures to standard error.")]


def given_model(argument: str | None, option: str | None) -> str:
    """Returns the model that the argument or --model names. Raises ConfigError unless exactly one does."""
    if (argument is None) == (option is None):
        raise ConfigError("give one model: a file or folder, an alias from `octavo models`, or hf:org/repo[:file]")
    return argument or option or ""


UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def size(text: str) -> int:
    """Parses "1500000", "800M", "2G" or "2GiB" into bytes. Units are powers of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise typer.BadParameter(f"{text!r} is not a size: write a number of bytes, or for example 800M or 2G")
    return int(float(match[1]) * UNITS[match[2].upper()])


def speculation(text: str) -> dict[str, Any]:
    """Parses a speculative_config from JSON, or from a method's name."""
    if text.strip().isidentifier():
        return {"method": text.strip()}
    try:
        config = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is neither JSON nor a method's name: {error}") from None
    if not isinstance(config, dict):
        raise typer.BadParameter(f"{text!r} is not a JSON object")
    return config


def target_itl(text: str) -> float | str | None:
    """Parses seconds, "auto", or "none" (None)."""
    if text in ("auto", "none"):
        return text if text == "auto" else None
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number of seconds, auto or none") from None


def bias(text: str) -> tuple[int, float]:
    """Parses "1234=-2.5" into a token id and the bias of its logit."""
    try:
        token, value = text.split("=")
        return int(token), float(value)
    except ValueError:
        raise typer.BadParameter(f"{text!r} must have the form TOKEN_ID=BIAS") from None


class Row(NamedTuple):
    """One option. names: if other than --name. parse: converts the text, if `type` cannot."""

    name: str
    type: Any
    help: str
    names: str = ""
    parse: Callable[[str], Any] | None = None
    metavar: str | None = None


class Table(NamedTuple):
    """A group of options. title: its section in `--help`."""

    title: str
    rows: tuple[Row, ...]
    defaults: Mapping[str, Any]


def _defaults(of: Any, **others: Any) -> dict[str, Any]:
    return {field.name: getattr(of, field.name) for field in dataclasses.fields(of)} | others


ENGINE = Table(
    "Engine",
    (
        Row("threads", int | None, "CPU threads; by default one per physical core."),
        Row(
            "isa",
            str,
            "Instruction set of the kernels: auto (the best this processor has), "
            "amx, avx512, avx2, i8mm, neon or portable.",
        ),
        Row(
            "gpu_memory_utilization",
            float | None,
            "With backend cuda: the share of the GPU's free memory to take; by default 0.9.",
            metavar="SHARE",
        ),
        Row(
            "cuda_graphs",
            str | None,
            "With backend cuda: on (the default: each size of batch is captured as a CUDA graph at its first step, and "
            "replayed from then on) or off (Python launches every kernel).",
            metavar="on|off",
        ),
        Row(
            "max_model_len",
            int | None,
            "Longest sequence in tokens, prompt and answer together; by default the model's context, or as much of it "
            "as the KV cache holds.",
        ),
        Row("max_num_seqs", int, "Most sequences that run at the same time."),
        Row("max_num_batched_tokens", int, "Most tokens in one step; longer prompts are computed in chunks."),
        Row(
            "target_itl",
            str | None,
            "Longest time between two tokens of an answer while prompts are computed: seconds, auto (about twice the "
            "time without prompts) or none (no limit: the highest throughput).",
            parse=target_itl,
            metavar="SECONDS",
        ),
        Row(
            "kv_cache_memory",
            str | None,
            "Memory for the KV cache, such as 800M or 2G; by default 1G, or more if one sequence of --max-model-len "
            "needs it, and at most half of the free memory.",
            parse=size,
            metavar="SIZE",
        ),
        Row("num_kv_blocks", int | None, "Number of KV cache blocks; overrides --kv-cache-memory."),
        Row(
            "kv_cache_dtype",
            str,
            "Number format of keys and values: auto (bf16), f32, bf16, int8 (half of bf16's memory) or k8v4 (int8 keys "
            "and 4-bit values: 42%). `octavo bench quality` measures what they cost.",
        ),
        Row(
            "kv_disk_cache",
            str | None,
            "Keep KV blocks that leave the cache in this folder, also for the next start.",
            metavar="FOLDER",
        ),
        Row("kv_disk_gb", float, "Size of the file in --kv-disk-cache, in GiB.", metavar="GB"),
        Row(
            "kv_disk_salted",
            bool,
            "Also keep blocks of requests with a cache_salt on disk.",
            "--kv-disk-salted",
        ),
        Row(
            "kv_ram_gb",
            float | None,
            "Main memory for KV blocks that leave the memory of a device, in GiB; not for backend cpu.",
            metavar="GB",
        ),
        Row(
            "preemption_mode",
            str,
            "How a preempted sequence gets its KV back: recompute, swap (from --kv-disk-cache) or auto (the faster).",
        ),
        Row("block_size", int, "Tokens per KV cache block: 16, 32, 64, 128 or 256."),
        Row(
            "kv_cache",
            str,
            "Layout of the KV cache: paged, or contiguous (a baseline: a sequence reserves its longest length).",
        ),
        Row(
            "scheduler",
            str,
            "Batching: continuous, or static (a baseline: a batch runs until its last sequence ends).",
        ),
        Row("policy", str, "Order of waiting requests: priority, fcfs (first come, first served) or deadline."),
        Row(
            "kv_eviction",
            str | None,
            "What sequences keep in the KV cache: none, sink_recent(sinks=16, window=1024) (the first and the last "
            "tokens: streams of any length) or snapkv(budget=0.5) (of a prompt). Changes answers: see docs/memory.md.",
            metavar="POLICY",
        ),
        Row(
            "kv_compaction",
            bool,
            "Move the KV blocks of running sequences side by side, a few a step. It changes no bit, and gains little.",
            "--kv-compaction/--no-kv-compaction",
        ),
        Row(
            "preemption_victim",
            str,
            "Which running request gives its KV blocks back when they run out: last (in the order of --policy), "
            "priority (the least urgent), blocks (the one with most) or score (lowest wait / (priority x generated)).",
        ),
        Row(
            "enable_prefix_caching",
            bool,
            "Reuse the cached keys and values of earlier prompts that begin with the same tokens.",
            "--enable-prefix-caching/--no-prefix-caching",
        ),
        Row(
            "enable_chunked_prefill",
            bool,
            "Compute long prompts in chunks, so that running sequences decode in between.",
            "--enable-chunked-prefill/--no-chunked-prefill",
        ),
        Row(
            "async_scheduling",
            bool,
            "Plan the next step while a device computes this one. No effect on the CPU, which does both itself.",
            "--async-scheduling/--no-async-scheduling",
        ),
        Row(
            "speculative_config",
            dict[str, Any] | None,
            'Speculative decoding: auto, ngram, suffix, or JSON such as {"method": "ngram"}. Same output, fewer steps.',
            parse=speculation,
            metavar="METHOD|JSON",
        ),
        Row(
            "tokenizer_pre",
            str | None,
            "Pre-tokenizer of a GGUF file, such as llama-bpe or qwen2, if the file names none or a wrong one.",
            metavar="NAME",
        ),
        Row(
            "backend",
            str,
            "cpu, cuda (the extra of that name; has not yet run on a GPU), auto (cuda where a GPU is, else cpu), "
            "reference (numpy: slow and exact) or null (computes nothing; for tests).",
        ),
    ),
    _defaults(EngineConfig(), **CPU.options, **CUDA.options),
)

# A new prompt must not stall a server's running streams; elsewhere throughput counts more.
SERVED = ENGINE._replace(defaults={**ENGINE.defaults, "target_itl": "auto"})

SAMPLING = Table(
    "Sampling",
    (
        Row("temperature", float, "Randomness of the answer; 0 always takes the most likely token."),
        Row("top_p", float, "Sample from the most likely tokens whose probabilities add up to this; 1 turns it off."),
        Row("top_k", int, "Sample from this many of the most likely tokens; 0 turns it off."),
        Row("min_p", float, "Drop tokens below this fraction of the highest probability; 0 turns it off."),
        Row("typical_p", float, "Probability that locally typical sampling keeps; 1 turns it off."),
        Row("seed", int | None, "Random seed; with the same seed a prompt gets the same answer."),
        Row("max_tokens", int | None, "Longest answer in tokens; by default what is left of the context."),
        Row("min_tokens", int, "Shortest answer in tokens."),
        Row("stop", list[str], "End the answer before this text; may be repeated.", metavar="TEXT"),
        Row("stop_token_ids", list[int], "End the answer at this token; may be repeated.", "--stop-token-id"),
        Row(
            "include_stop_str_in_output",
            bool,
            "Include the stop string in the output.",
            "--include-stop-str-in-output",
        ),
        Row("ignore_eos", bool, "Continue after the end-of-sequence token.", "--ignore-eos"),
        Row("presence_penalty", float, "Subtract this from the logit of every token that the answer already has."),
        Row("frequency_penalty", float, "Subtract this from a token's logit for each time it is in the answer."),
        Row("repetition_penalty", float, "Divide the logits of tokens in the prompt or answer by this; 1 is off."),
        Row("logit_bias", list[str], "Add BIAS to a token's logit; may be repeated.", "", bias, "TOKEN_ID=BIAS"),
        Row("allowed_token_ids", list[int], "Generate only this token; repeat to allow more.", "--allowed-token-id"),
        Row(
            "bad_words",
            list[str],
            "Text that the answer must not contain; may be repeated.",
            "--bad-word",
            metavar="TEXT",
        ),
        Row("skip_special_tokens", bool, "Remove control tokens from the text.", "--skip-special/--keep-special"),
    ),
    _defaults(SamplingParams(), temperature=0.7, top_p=0.95, max_tokens=None),
)


def takes(**tables: Table) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds the tables' options to a command, which gets each table's values as a mapping under the given name."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            groups = {name: {row.name: values.pop(row.name) for row in table.rows} for name, table in tables.items()}
            function(**values, **groups)

        own = inspect.signature(function, eval_str=True).parameters.values()
        shared = [_parameter(row, table) for table in tables.values() for row in table.rows]
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.name not in tables]
        parameters += shared
        vars(command)["__signature__"] = inspect.Signature(parameters)  # typer reads it
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        return command

    return decorate


def _parameter(row: Row, table: Table) -> inspect.Parameter:
    default = table.defaults[row.name]
    many = row.type in (list[str], list[int])
    names = row.names or "--" + row.name.replace("_", "-")
    option = typer.Option(
        names,
        help=row.help,
        parser=row.parse,
        metavar=row.metavar,
        show_default=not many and default is not None,
        rich_help_panel=table.title,
    )
    return inspect.Parameter(
        row.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=list(default or ()) if many else default,
        annotation=Annotated[row.type, option],
    )


def sampling_params(values: Mapping[str, Any]) -> SamplingParams:
    """Makes SamplingParams from the values of SAMPLING. They are not checked: making a request does that."""
    made: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    made["logit_bias"] = dict(made["logit_bias"])
    made["allowed_token_ids"] = made["allowed_token_ids"] or None
    return SamplingParams(**made)
