"""Structured output: masks along a text, after drafts and back, and what is refused."""

from __future__ import annotations

import json
import random
import time

import numpy as np
import pytest

from octavo.errors import RequestError
from octavo.sampling import params
from octavo.sampling.grammar import Compiler
from octavo.sampling.rules import unpack
from octavo.types import Request, SamplingParams, Sequence, StructuredOutputs
from tests.tiny import tiny_vocabulary

pytest.importorskip("llguidance")
BYTES = 256


class Words:
    """A tokenizer of bytes, some pairs of letters, and an end."""

    def __init__(self) -> None:
        pairs = [token.encode() for token in tiny_vocabulary(300)[0][BYTES:-3]]
        self.tokens = [*(bytes([i]) for i in range(BYTES)), *pairs, b""]
        self.eos_ids = (len(self.tokens) - 1,)
        self.special_ids = frozenset(self.eos_ids)

    def token_bytes(self, token_id: int, skip_special: bool = False) -> bytes:
        return self.tokens[token_id]

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return list(text.encode())


WORDS = Words()
SIZE = len(WORDS.tokens)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler(WORDS, SIZE)


def sequence(compiler: Compiler, wanted: StructuredOutputs, **more: object) -> Sequence:
    made = SamplingParams(structured_outputs=wanted, **more)  # type: ignore[arg-type]
    request = Request("r", [1, 2], made, eos_token_ids=WORDS.eos_ids, grammar=compiler.compile(wanted))
    return Sequence(request, 0, [1, 2], 2)


def allowed(seq: Sequence, position: int) -> set[int]:
    arrays = params.build([(seq, position)], SIZE)
    return set(np.flatnonzero(unpack(arrays.masks[arrays.mask_rows[0]], SIZE)).tolist())


def write(seq: Sequence, seed: int, most: int = 200) -> str:
    """Random allowed tokens until the end."""
    rng = random.Random(seed)
    for _ in range(most):
        token = rng.choice(sorted(allowed(seq, len(seq.token_ids))))
        if token in WORDS.eos_ids:
            break
        seq.token_ids.append(token)
    return b"".join(WORDS.tokens[token] for token in seq.token_ids[2:]).decode("utf-8", "replace")


def test_random_walks_follow_the_schema(compiler: Compiler) -> None:
    for seed in range(20):
        assert isinstance(json.loads(write(sequence(compiler, StructuredOutputs(json=SCHEMA)), seed))["a"], int)


def test_white_space_in_json_comes_to_an_end(compiler: Compiler) -> None:
    def after(text: bytes) -> set[int]:
        seq = sequence(compiler, StructuredOutputs(json=SCHEMA))
        seq.token_ids += list(text)
        return allowed(seq, len(seq.token_ids))

    assert ord("\n") in after(b'{"a":\n') and ord(" ") in after(b'{"a":\r\n\n  ')
    assert not after(b'{"a":\n\n' + b" " * 20) & set(b" \t\r\n")


def test_choices_are_those_and_no_others(compiler: Compiler) -> None:
    choice = ("yes", 'a "b" \\ c', "é☃\n", "yesterday")
    found = {write(sequence(compiler, StructuredOutputs(choice=choice)), seed) for seed in range(60)}
    assert found == set(choice)


def test_regex_and_lark(compiler: Compiler) -> None:
    assert write(sequence(compiler, StructuredOutputs(regex="[ab]{3}")), 0).strip("ab") == ""
    assert write(sequence(compiler, StructuredOutputs(grammar='start: "x" /[0-9]{2}/')), 0)[0] == "x"


def test_the_end_and_nothing_else_may_follow_a_complete_text(compiler: Compiler) -> None:
    seq = sequence(compiler, StructuredOutputs(choice=("ab",)))
    seq.token_ids += list(b"ab")
    assert allowed(seq, 4) == set(WORDS.eos_ids)
    seq.token_ids += WORDS.eos_ids  # ignore_eos
    assert allowed(seq, 5) == set(WORDS.eos_ids)


def test_min_tokens_gives_way_to_a_complete_text(compiler: Compiler) -> None:
    seq = sequence(compiler, StructuredOutputs(choice=("ab",)), min_tokens=9)
    assert params.build([(seq, 2)], SIZE).bias_tokens.tolist() == list(WORDS.eos_ids)
    seq.token_ids += list(b"ab")
    assert params.build([(seq, 4)], SIZE).bias_tokens.size == 0


def test_masks_of_drafted_positions_follow_the_drafts_and_are_taken_back(compiler: Compiler) -> None:
    """Every row is what a plain sequence of the same tokens would get, in any order of acceptance."""
    rng = random.Random(1)
    for seed in range(15):
        text = list(write(sequence(compiler, StructuredOutputs(json=SCHEMA)), seed).encode())
        plain, drafting = (sequence(compiler, StructuredOutputs(json=SCHEMA)) for _ in range(2))
        while len(drafting.token_ids) - 2 < len(text):
            done = len(drafting.token_ids) - 2
            drafting.drafts = text[done : done + rng.randint(0, 4)]
            wrong = rng.random() < 0.5 and drafting.drafts
            if wrong:
                drafting.drafts[-1] = rng.randrange(SIZE - 1)
            right = len(drafting.drafts) - bool(wrong)
            for k in range(right + 1):
                plain.token_ids = [1, 2, *text[: done + k]]
                assert allowed(drafting, 2 + done + k) == allowed(plain, 2 + done + k)
            if wrong:
                allowed(drafting, 2 + done + right + 1)  # whatever it is, it must not do harm
            drafting.token_ids += text[done : done + rng.randint(0, right) + 1]
            drafting.drafts = []


def test_a_mask_and_the_users_own_list_of_tokens_meet(compiler: Compiler) -> None:
    both = sequence(compiler, StructuredOutputs(regex="[abc]"), allowed_token_ids=(ord("b"), ord("x")))
    assert allowed(both, 2) == {ord("b")}


def test_rows_with_and_without_a_grammar_share_a_batch(compiler: Compiler) -> None:
    free = Sequence(Request("f", [1], SamplingParams(temperature=1.0)), 0, [1], 1)
    bound = sequence(compiler, StructuredOutputs(choice=("a",)))
    listed = Sequence(Request("l", [1], SamplingParams(allowed_token_ids=(7,))), 0, [1], 1)
    arrays = params.build([(free, 1), (bound, 2), (listed, 1)], SIZE)
    assert arrays.mask_rows[0] == -1
    masks = [unpack(arrays.masks[row], SIZE) for row in arrays.mask_rows[1:]]
    assert [np.flatnonzero(mask).tolist() for mask in masks] == [[ord("a")], [7]]


def test_compiled_grammars_are_kept(compiler: Compiler) -> None:
    first = compiler.compile(StructuredOutputs(json={"type": "array"}))
    assert compiler.compile(StructuredOutputs(json='{"type": "array"}')) is first


@pytest.mark.parametrize(
    "wanted",
    [
        StructuredOutputs(regex="("),
        StructuredOutputs(grammar="start: nobody"),
        StructuredOutputs(grammar="start: " + "(" * 5000 + '"a"' + ")" * 5000),
        StructuredOutputs(json={"type": "strin"}),
        StructuredOutputs(json="{"),
        StructuredOutputs(json="[1]"),
        StructuredOutputs(json={"$ref": "http://example.com/schema"}),
        StructuredOutputs(json={"$ref": "file:///etc/passwd"}),
        StructuredOutputs(json={"type": "string", "pattern": "("}),
        StructuredOutputs(regex="(a{1000}){1000}"),
        StructuredOutputs(regex="a*" * 3000),
        StructuredOutputs(json={"enum": ["x" * 100 + str(i) for i in range(5000)]}),
    ],
)
def test_what_cannot_be_compiled_is_refused_in_good_time(compiler: Compiler, wanted: StructuredOutputs) -> None:
    start = time.monotonic()
    with pytest.raises(RequestError) as caught:
        compiler.compile(wanted)
    assert caught.value.field == "structured_outputs" and len(str(caught.value)) < 400
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "wanted",
    [
        StructuredOutputs(),
        StructuredOutputs(regex="a", choice=("b",)),
        StructuredOutputs(json_object=True, regex="a"),
        StructuredOutputs(choice=()),
        StructuredOutputs(choice=("a", "")),
        StructuredOutputs(regex=""),
        StructuredOutputs(grammar="x" * 200_000),
        StructuredOutputs(json=[1]),  # type: ignore[arg-type]
        {"regex": "a"},
        "a",
    ],
)
def test_wrong_shapes_are_refused(wanted: object) -> None:
    with pytest.raises(RequestError, match="structured_outputs"):
        params.check(SamplingParams(structured_outputs=wanted), SIZE)  # type: ignore[arg-type]


class LargerWords(Words):
    """Has one token more than the model, and uses it wherever it can."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens.append(b"hello")

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        parts = text.split("hello")
        ids = [list(part.encode()) for part in parts]
        return ids[0] + [token for part in ids[1:] for token in [SIZE, *part]]


def test_a_forced_text_is_spelled_in_tokens_that_the_model_has() -> None:
    """If only one text is possible, llguidance allows only its encoding: none, if the model lacks one of its tokens."""
    larger = LargerWords()
    assert larger.encode("a hello") == [97, 32, SIZE]
    seq = sequence(Compiler(larger, SIZE), StructuredOutputs(regex="oh, hello, you"))
    assert write(seq, 0) == "oh, hello, you"
