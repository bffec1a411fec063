"""Fill-in-the-middle: the tokens that mark the text before a gap, the text after it, and the gap itself.

A model that was trained for it reads `<prefix> before <suffix> after <middle>` and writes what belongs between.
Formats: StarCoder (arXiv:2305.06161), Code Llama (arXiv:2308.12950), DeepSeek-Coder, CodeGemma and Qwen2.5-Coder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Prefix, suffix and middle token of each format.
MARKS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
    ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),
    ("<PRE>", "<SUF>", "<MID>"),
)
REPOSITORIES = ("<|repo_name|>", "<repo_name>", "<reponame>")
FILES = ("<|file_sep|>", "<file_sep>", "<|file_separator|>")
PADS = ("<|fim_pad|>", "<fim_pad>", "<fim-pad>", "\u2581<EOT>", "<EOT>")


@dataclass(frozen=True, slots=True)
class FillTokens:
    """Token ids. repository, file: what stands before the name of a repository and of a file, None if there is none.

    ends: tokens that end the text in the gap, besides the model's own end tokens.
    """

    prefix: int
    suffix: int
    middle: int
    repository: int | None
    file: int | None
    ends: tuple[int, ...]


def find_fill_tokens(tokens: Sequence[str]) -> FillTokens | None:
    """Returns the vocabulary's tokens for fill-in-the-middle; None if it lacks a complete set."""
    named = {text for marks in (*MARKS, REPOSITORIES, FILES, PADS) for text in marks}
    ids = {text: token for token, text in enumerate(tokens) if text in named}
    marks = next((marks for marks in MARKS if all(text in ids for text in marks)), None)
    if marks is None:
        return None
    prefix, suffix, middle = (ids[text] for text in marks)
    ends = tuple(ids[text] for text in (*PADS, *REPOSITORIES, *FILES) if text in ids)
    return FillTokens(prefix, suffix, middle, _first(ids, REPOSITORIES), _first(ids, FILES), ends)


def _first(ids: Mapping[str, int], texts: Sequence[str]) -> int | None:
    return next((ids[text] for text in texts if text in ids), None)
