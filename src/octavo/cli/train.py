"""`octavo train heads`: fits the heads of the speculative method "heads" to the model's own text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.cli.options import ENGINE, ModelArgument, takes

if TYPE_CHECKING:
    from octavo.assembly.engine import Assembly
    from octavo.spec.heads_fit import Text

TEMPERATURE = 0.7


@takes(engine=ENGINE)
def heads(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Write the heads to this .npz file.")],
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens of training text.")] = 20_000,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Width of the heads.")] = 128,
    size: Annotated[
        int, typer.Option("--size", min=2, help="Tokens the heads can draft: the most frequent ones.")
    ] = 4096,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the text.")] = 10,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            exists=True,
            dir_okay=False,
            help="Text file with one prompt per line; by default the shipped prompts.",
        ),
    ] = None,
    *,
    engine: dict[str, Any],
) -> None:
    """Train heads that draft from the model's last hidden state. Takes minutes.

    The model writes its own training text. Use the result with `--speculative-config`, as the last line shows.
    """
    from octavo.assembly.engine import assemble, engine_config
    from octavo.cli.console import loading_bar, note, writable
    from octavo.spec.heads_fit import FitSettings, fit

    writable(output)
    settings = {**engine, "speculative_config": None, "max_model_len": engine.get("max_model_len") or 1024}
    with loading_bar() as bar:
        parts = assemble(model, engine_config(**settings), progress=bar)
    texts = list(written(parts, prompts, tokens))
    note(f"{sum(len(text.tokens) for text in texts)} tokens written")
    chosen = FitSettings(rank=rank, size=size, epochs=epochs)
    fitted = fit(texts, parts.model.vocab_size, chosen, lambda epoch, loss: note(f"epoch {epoch + 1}: loss {loss:.3f}"))
    fitted.save(output)
    parts.close()
    typer.echo(f'{output}: use it with --speculative-config \'{{"method": "heads", "heads": "{output}"}}\'')


def written(parts: Assembly, prompts: Path | None, tokens: int) -> list[Text]:
    """Generates about `tokens` tokens. Returns them with the hidden states that predicted them."""
    from octavo.bench.written import LENGTH, Task, encoded, fitted, hidden_states, repeated, shipped, write
    from octavo.errors import ConfigError
    from octavo.spec.heads_fit import Text

    text = shipped("training.txt") if prompts is None else prompts.read_text(encoding="utf-8")
    given = [Task(encoded(parts, line), LENGTH) for line in text.splitlines() if line.strip()]
    if not given:
        raise ConfigError(f"prompts: {prompts} has no prompt; write one per line")
    assert parts.config.max_model_len is not None
    each = [Task(task.prompt, LENGTH) for task in repeated(given, max(1, tokens // LENGTH))]
    tasks = fitted(each, parts.config.max_model_len)
    outputs = write(parts, tasks, TEMPERATURE)
    whole = [task.prompt + output for task, output in zip(tasks, outputs, strict=True)]
    states = hidden_states(parts, whole)
    return [
        Text(state[len(task.prompt) - 1 : -1], tokens_of(output))
        for task, output, state in zip(tasks, outputs, states, strict=True)
        if len(output) > 8
    ]


def tokens_of(output: list[int]) -> Any:
    import numpy as np

    return np.array(output, np.int32)
