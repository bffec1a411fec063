"""The tokens for fill-in-the-middle, found by their texts."""

from __future__ import annotations

import pytest

from octavo.tokenizer.fill import MARKS, find_fill_tokens


@pytest.mark.parametrize("marks", MARKS, ids=lambda marks: marks[0])
def test_every_format_is_found(marks: tuple[str, str, str]) -> None:
    found = find_fill_tokens(["a", marks[2], "b", marks[1], marks[0]])
    assert found is not None and (found.prefix, found.suffix, found.middle) == (4, 3, 1)
    assert found.repository is None and found.file is None and found.ends == ()


def test_an_incomplete_set_is_none() -> None:
    assert find_fill_tokens(["<|fim_prefix|>", "<|fim_suffix|>", "<fim_middle>"]) is None


def test_other_files_and_ends() -> None:
    """Qwen2.5-Coder's tokens, in its order."""
    tokens = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"]
    found = find_fill_tokens(tokens)
    assert found is not None and (found.repository, found.file) == (4, 5)
    assert sorted(found.ends) == [3, 4, 5]
