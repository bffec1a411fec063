"""Shared by `run` and `chat`: loading a model with a bar, the chat template, the line of figures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo.bench.usage import peak_rss
from octavo.cli.console import loading_bar, megabytes, process_age
from octavo.errors import TokenizerError

if TYPE_CHECKING:
    from octavo.cli.answer import Answer
    from octavo.offline.llm import LLM


def load(model: str, engine: Mapping[str, Any]) -> tuple[LLM, float]:
    """Returns the model and its load time in seconds, without imports."""
    from octavo.offline.llm import LLM

    start = time.perf_counter()
    with loading_bar() as bar:
        llm = LLM(model, load_progress=bar, **engine)
    return llm, time.perf_counter() - start


def template_of(llm: LLM, given: str | None) -> str | None:
    """Returns the chat template: the file or text of --chat-template, else the model's own; None if it has none."""
    if given is None:
        return llm.get_tokenizer().chat_template
    if "{" in given:
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"chat template {given!r}: {getattr(error, 'strerror', None) or error}") from error


def figures(answer: Answer) -> list[str]:
    """Returns the line of figures in its parts: speeds, and peak memory so far."""
    cached = f", {answer.num_cached_tokens} cached" if answer.num_cached_tokens else ""
    return [
        f"prefill {answer.num_prompt_tokens} tokens{cached}: {answer.prefill_seconds:.2f} s, "
        f"{answer.prefill_tok_s:.0f} tok/s",
        f"decode {len(answer.token_ids)} tokens: {answer.decode_seconds:.2f} s, {answer.decode_tok_s:.1f} tok/s",
        f"peak memory {megabytes(peak_rss())}",
    ]


def since_start(answer: Answer) -> float:
    """Returns seconds from the start of the process to the first token."""
    waited = time.perf_counter() - (answer.first or time.perf_counter())
    return process_age() - waited
