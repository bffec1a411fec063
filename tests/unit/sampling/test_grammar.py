"""Structured output: masks along a text, after drafts and back, and what is refused."""

from __future__ import annotations

import json
import random
import re
import time
from typing import Any

import numpy as np
import pytest

from octavo.answers.tool_formats import HERMES
from octavo.answers.tool_grammar import forced
from octavo.errors import RequestError
from octavo.sampling import params
from octavo.sampling.grammar import Compiler
from octavo.sampling.rules import unpack
from octavo.sampling_params import SamplingParams, StructuredOutputs
from octavo.types import Request, Sequence
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

    def spell(self, text: str) -> list[int]:
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

    def spell(self, text: str) -> list[int]:
        parts = text.split("hello")
        ids = [list(part.encode()) for part in parts]
        return ids[0] + [token for part in ids[1:] for token in [SIZE, *part]]


def test_a_forced_text_is_spelled_in_tokens_that_the_model_has() -> None:
    """If only one text is possible, llguidance allows only its encoding: none, if the model lacks one of its tokens."""
    larger = LargerWords()
    assert larger.spell("a hello") == [97, 32, SIZE]
    seq = sequence(Compiler(larger, SIZE), StructuredOutputs(regex="oh, hello, you"))
    assert write(seq, 0) == "oh, hello, you"


def test_a_token_that_breaks_the_grammar_ends_the_answer(compiler: Compiler) -> None:
    """A matcher that is left behind by the text must not go on as if nothing had happened."""
    seq = sequence(compiler, StructuredOutputs(choice=("abc",)))
    seq.token_ids += [ord("a"), ord("x")]
    with pytest.raises(RequestError, match=r"breaks the grammar") as caught:
        allowed(seq, 4)
    assert caught.value.field == "structured_outputs"


def test_a_matcher_that_has_given_up_is_an_error(compiler: Compiler) -> None:
    class GivenUp:
        """llguidance after an error: it also says that it has stopped, which would end the text as if it were whole."""

        def is_error(self) -> bool:
            return True

        def is_stopped(self) -> bool:
            return True

        def get_error(self) -> str:
            return "parser: too many items"

    seq = sequence(compiler, StructuredOutputs(regex="[ab]+"))
    allowed(seq, 2)
    seq.sampler.matcher._native = GivenUp()  # type: ignore[union-attr]
    with pytest.raises(RequestError, match="too many items"):
        allowed(seq, 2)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (StructuredOutputs(regex="("), "unclosed group"),
        (StructuredOutputs(regex="[a"), "unclosed character class"),
        (StructuredOutputs(regex="a(?=b)"), "look-around"),
        (StructuredOutputs(regex="(a)\\1"), "backreferences are not supported"),
        (StructuredOutputs(json={"type": "string", "pattern": "("}), "regex parse error: in '(': unclosed group"),
        (StructuredOutputs(json={"type": "strin"}), "Invalid type: strin"),
        (StructuredOutputs(grammar="start: nobody"), "unknown name"),
        (StructuredOutputs(grammar='start: "a" /(/'), "line 1, column 8: invalid regex"),
        (StructuredOutputs(grammar='start: "a'), "line 1, column 10: Lark has no such token"),
        (StructuredOutputs(grammar='start: start "a"'), "leads back to itself without an end"),
        (StructuredOutputs(grammar="root ::= list"), "there is no rule list"),
        (StructuredOutputs(regex="*"), ': invalid regex "*": regex parse error: repetition operator'),
        (StructuredOutputs(json="notjson"), "the JSON schema is not JSON: Expecting value: line 1"),
        (StructuredOutputs(json="true"), "a JSON schema is an object; this is 'true'"),
        (StructuredOutputs(json={"oneOf": [{"maxLength": 1}, {"maxLength": 2}]}), "use anyOf"),
    ],
)  # fmt: skip
def test_errors_keep_their_reason(compiler: Compiler, wanted: StructuredOutputs, reason: str) -> None:
    with pytest.raises(RequestError, match=re.escape(reason)) as caught:
        compiler.compile(wanted)
    assert "^" not in str(caught.value) and "\n" not in str(caught.value) and "panic" not in str(caught.value)


def test_unknown_formats_are_annotations_and_known_ones_are_kept(compiler: Compiler) -> None:
    schema = {
        "type": "object",
        "properties": {
            "format": {"enum": ["phone"]},  # a property of that name, and a value, are no formats
            "a": {"type": "string", "format": "phone", "maxLength": 2},
            "b": {"type": ["string", "null"], "format": "x-thing", "maxLength": 1},
            "c": {"$ref": "#/$defs/day"},
            "d": {"const": {"format": "phone"}},
        },
        "required": ["format", "a", "b", "c", "d"],
        "additionalProperties": False,
        "$defs": {"day": {"type": "string", "format": "date"}},
    }
    for given in (schema, json.dumps(schema)):
        text = write(sequence(compiler, StructuredOutputs(json=given)), 3, most=2000)
        made = json.loads(text)
        assert made["format"] == "phone" and made["d"] == {"format": "phone"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", made["c"])


def test_a_format_that_is_no_text_is_still_a_mistake(compiler: Compiler) -> None:
    with pytest.raises(RequestError, match="structured_outputs"):
        compiler.compile(StructuredOutputs(json={"type": "string", "format": {"a": 1}}))


def test_a_tool_with_an_unknown_format_can_be_forced(compiler: Compiler) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "string", "format": "phone", "maxLength": 2}}}
    tool = {"type": "function", "function": {"name": "call", "parameters": parameters}}
    compiler.compile(forced(HERMES, [tool], parallel=False))


def test_the_vocabulary_is_not_built_on_a_requests_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Words):
        def token_bytes(self, token_id: int, skip_special: bool = False) -> bytes:
            time.sleep(0.002)
            return super().token_bytes(token_id)

    monkeypatch.setattr("octavo.sampling.grammar.MAX_COMPILE_SECONDS", 0.5)
    assert Compiler(Slow(), SIZE).compile(StructuredOutputs(regex="ab"))  # 0.6 s for its 301 tokens
    prepared = Compiler(WORDS, SIZE)
    prepared.prepare()
    assert "_native" in vars(prepared)


@pytest.mark.parametrize(
    "more",
    [{"allowed_token_ids": (ord("x"),)}, {"bad_word_ids": ((ord("a"),), (ord("b"),))}],
    ids=["allowed", "bad words"],
)
def test_a_grammar_that_contradicts_other_limits_is_refused(compiler: Compiler, more: dict[str, Any]) -> None:
    seq = sequence(compiler, StructuredOutputs(regex="[ab]"))
    for name, value in more.items():
        if name == "bad_word_ids":
            seq.request.bad_word_ids = value
        else:
            seq = sequence(compiler, StructuredOutputs(regex="[ab]"), **{name: value})
    with pytest.raises(RequestError, match="bad_words or allowed_token_ids forbid") as caught:
        allowed(seq, 2)
    assert caught.value.field == "structured_outputs"


def test_a_draft_may_lead_where_nothing_is_allowed(compiler: Compiler) -> None:
    seq = sequence(compiler, StructuredOutputs(regex="[ab]c"), allowed_token_ids=(ord("a"),))
    seq.drafts = [ord("a")]
    assert allowed(seq, 2) == {ord("a")} and allowed(seq, 3) == set()
    seq.token_ids.append(ord("a"))
    seq.drafts = []
    with pytest.raises(RequestError, match="forbid"):
        allowed(seq, 3)


def test_the_end_of_a_whole_text_needs_no_permission(compiler: Compiler) -> None:
    seq = sequence(compiler, StructuredOutputs(choice=("ab",)), allowed_token_ids=(ord("a"), ord("b")))
    seq.token_ids += list(b"ab")
    assert allowed(seq, 4) == set(WORDS.eos_ids)
