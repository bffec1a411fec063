"""Fill-in-the-middle prompts: the text before a gap, the text after it, and other files of the same repository."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from msgspec import Struct

from octavo.processing.inputs import Tokens
from octavo.sampling_params import SamplingParams
from octavo.server.http.errors import bad_request
from octavo.server.runtime import Runtime
from octavo.tokenizer import FillTokens, Tokenizer

REPOSITORY = "myproject\n"  # the name that llama.cpp gives the repository
UNNAMED = "filename\n"  # and the file with the gap
SNIPPET = "\n\n--- snippet ---\n\n"  # what llama.cpp puts before a file where the vocabulary has no token for it


class ExtraFile(Struct):
    """A file that the model should know about. In llama.cpp's format."""

    text: str
    filename: str = "tmp"


def fill_tokens(runtime: Runtime, field: str) -> FillTokens:
    """The model's tokens for fill-in-the-middle. Raises ApiError that names `field` if it has none."""
    assert runtime.tokenizer is not None
    if (tokens := runtime.tokenizer.fill) is None:
        raise bad_request(
            f"{field}: the model {runtime.name} has no tokens for fill-in-the-middle: use a code model", field
        )
    return tokens


def fill_prompt(
    tokenizer: Tokenizer,
    marks: FillTokens,
    before: str | Sequence[int],
    after: str,
    files: Sequence[ExtraFile] = (),
    begun: str = "",
) -> Tokens:
    """The prompt for the gap between `before` and `after`. begun: the start of the answer, if it is known.

    Texts are read literally: what looks like a control token in a program is no control token.
    """
    spell = tokenizer.spell
    head = spell(before) if isinstance(before, str) else before
    gap = [marks.prefix, *head, marks.suffix, *spell(after), marks.middle, *spell(begun)]
    return Tokens([*tokenizer.prefix_ids, *_spell_files(marks, files, spell), *gap])


def _spell_files(marks: FillTokens, files: Sequence[ExtraFile], spell: Callable[[str], list[int]]) -> list[int]:
    """Other files, in the format of Qwen2.5-Coder; with a mark in plain text if the vocabulary has no token for it."""
    if not files:
        return []
    ids = [] if marks.repository is None else [marks.repository, *spell(REPOSITORY)]
    for file in files:
        ids += (
            spell(SNIPPET + file.text) if marks.file is None else [marks.file, *spell(f"{file.filename}\n{file.text}")]
        )
    return ids if marks.file is None else [*ids, marks.file, *spell(UNNAMED)]


def until_filled(params: SamplingParams, marks: FillTokens) -> SamplingParams:
    """The parameters with the tokens that end the text in a gap as further stop tokens.

    Raises ApiError if they cut the prompt, which would lose its marks.
    """
    if params.truncate_prompt_tokens is not None:
        field = "truncate_prompt_tokens"
        raise bad_request(f"{field} cannot cut a prompt for fill-in-the-middle: shorten the text", field)
    if params.ignore_eos:
        return params
    return replace(params, stop_token_ids=(*params.stop_token_ids, *marks.ends))
