"""`octavo info`: shows the content of a model file, or the machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.cli.options import MODEL_HELP

if TYPE_CHECKING:
    from octavo.backends.base import Facts
    from octavo.weights import Checkpoint

LABELS = {
    "name": "name", "architecture": "architecture", "parameters": "parameters", "layers": "layers",
    "hidden_size": "hidden size", "feed_forward": "feed-forward", "heads": "heads", "kv_heads": "KV heads",
    "head_dim": "head size", "context_length": "context", "vocab_size": "vocabulary", "tokenizer": "tokenizer",
    "chat_template": "chat template", "format": "format", "size": "size", "path": "path",
}  # fmt: skip


def info(
    source: Annotated[str | None, typer.Argument(help=MODEL_HELP, show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="Also list every tensor.")] = False,
) -> None:
    """Show what is in a model file: architecture, sizes, tokenizer, and the encodings of its weights.

    Without a model, show this machine: its processor, memory and GPUs."""
    if source is None:
        show_machine(as_json)
        return
    from octavo.weights import open_checkpoint
    from octavo.weights.sources import resolve
    from octavo.weights.summary import summarise

    with open_checkpoint(resolve(source)) as checkpoint:
        summary = summarise(checkpoint)
        rows = tensor_rows(checkpoint) if tensors else []
    if as_json:
        typer.echo(json.dumps(summary | ({"tensors": rows} if tensors else {})))
        return
    show(summary, rows)


def show_machine(as_json: bool) -> None:
    from octavo.backends import host
    from octavo.backends.registry import choose
    from octavo.cli.console import amount, show_definitions
    from octavo.config import usable_threads

    processor, cards = host.facts(), host.gpus()
    threads, backend = usable_threads(None), choose("auto")
    if as_json:
        facts = {"processor": processor._asdict(), "threads": threads, "gpus": [card._asdict() for card in cards]}
        typer.echo(json.dumps(facts | {"backend_auto": backend}))
        return

    def memory(of: Facts) -> str:
        return f"{amount(of.memory)}, {amount(of.used)} used"

    rows = [("processor", f"{processor.name}, {threads} threads"), ("memory", memory(processor))]
    rows += [(f"GPU {i}", f"{card.name}, {memory(card)}") for i, card in enumerate(cards)] or [("GPU", "none")]
    show_definitions([*rows, ("backend", f"auto is {backend}")])


def tensor_rows(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    return [
        {"name": w.name, "shape": list(w.shape), "type": w.type, "bytes": w.data.nbytes}
        for w in checkpoint.tensors.values()
    ]


def show(summary: dict[str, Any], tensors: list[dict[str, Any]]) -> None:
    from octavo.cli.console import amount, show_definitions, show_table

    show_definitions([(label, readable(key, summary[key])) for key, label in LABELS.items()])
    mix = []
    total = sum(entry["bytes"] for entry in summary["quantization"])  # above 0 if there is an entry
    for entry in summary["quantization"]:
        share, bits = entry["bytes"] / total, 8 * entry["bytes"] / entry["parameters"]
        count, size = readable("parameters", entry["parameters"]), amount(entry["bytes"])
        mix.append((entry["type"], str(entry["tensors"]), count, size, f"{share:.1%}", f"{bits:.2f}"))
    print()
    show_table(("weights", "tensors", "parameters", "size", "share", "bits per weight"), mix, "<>")
    if tensors:
        listing = [(row["name"], str(row["shape"]), row["type"], amount(row["bytes"])) for row in tensors]
        print()
        show_table(("tensor", "shape", "type", "size"), listing, "<<<>")


def readable(key: str, value: Any) -> str:
    """Formats a value for people: 134.5 M parameters, 98.4 MB, yes or no, - for unknown."""
    from octavo.cli.console import amount
    from octavo.cli.layout import Whole

    if key == "path":
        return Whole(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "size":
        return amount(value)
    if key == "parameters":
        unit, name = (1e9, "B") if value >= 1e9 else (1e6, "M")
        return f"{value / unit:.2f} {name}" if value >= 1e5 else str(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
