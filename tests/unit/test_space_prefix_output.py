"""Structured output and bad words of models whose tokenizer puts a space before a text."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from octavo import LLM, SamplingParams
from octavo.answers.tool_formats import HERMES
from octavo.answers.tool_grammar import forced
from octavo.errors import RequestError
from octavo.sampling_params import StructuredOutputs
from tests.tiny import SPM_SIZE, Tiny, write_tiny_gguf, write_tiny_hf

pytest.importorskip("llguidance")
TOOL = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module", params=["gguf", "folder"])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder, tiny = tmp_path_factory.mktemp("spm"), Tiny(vocab=SPM_SIZE, layers=1, sentencepiece=True)
    path = write_tiny_gguf(folder / "m.gguf", tiny) if request.param == "gguf" else write_tiny_hf(folder / "m", tiny)
    with LLM(path, backend="reference", max_model_len=160) as made:
        yield made


def write(llm: LLM, wanted: StructuredOutputs, prompt: str = "Once upon a", seed: int = 0) -> tuple[str, str | None]:
    params = SamplingParams(temperature=1.0, seed=seed, max_tokens=80, structured_outputs=wanted)
    (output,) = llm.generate(prompt, params, use_tqdm=False)
    return output.outputs[0].text, output.outputs[0].finish_reason


@pytest.mark.parametrize(
    ("wanted", "texts"),
    [
        (StructuredOutputs(regex="ok"), {"ok"}),
        (StructuredOutputs(regex=" time"), {" time"}),
        (StructuredOutputs(grammar='start: "a" /[bc]/'), {"ab", "ac"}),
        (StructuredOutputs(choice=("yes", "no", "\u00e9t\u00e9 \u65e5")), {"yes", "no", "\u00e9t\u00e9 \u65e5"}),
    ],
    ids=["regex", "space", "lark", "choice"],
)
def test_a_text_follows_its_grammar(llm: LLM, wanted: StructuredOutputs, texts: set[str]) -> None:
    for seed in range(3):
        text, reason = write(llm, wanted, seed=seed)
        assert text in texts and reason == "stop"


def test_a_forced_tool_call(llm: LLM) -> None:
    text, reason = write(llm, forced(HERMES, [TOOL], parallel=False))
    call = text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
    assert reason == "stop" and json.loads(call)["name"] == "get_time"


def test_a_schema(llm: LLM) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x y", 12]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    text, _ = write(llm, StructuredOutputs(json=schema))
    assert json.loads(text)["a"] in ("x y", 12)


def test_bad_words_are_found_inside_words_and_at_their_start(llm: LLM) -> None:
    tokenizer = llm.parts.tokenizer
    request = llm._maker.make(llm._maker.tokens("a"), SamplingParams(bad_words=("time",)))
    assert {tuple(tokenizer.spell("time")), tuple(tokenizer.spell(" time"))} == set(request.bad_word_ids)
    assert b"".join(map(tokenizer.token_bytes, tokenizer.spell("time"))) == b"time"


def test_limits_that_contradict_a_grammar_are_an_error(llm: LLM) -> None:
    wanted = StructuredOutputs(grammar='start: "a" /[bc]/')
    params = SamplingParams(max_tokens=9, structured_outputs=wanted, allowed_token_ids=(3 + ord("x"),))
    for _ in range(2):
        with pytest.raises(RequestError, match="bad_words or allowed_token_ids forbid"):
            llm.generate("Once upon a", params, use_tqdm=False)
        with pytest.raises(RequestError, match="bad_words or allowed_token_ids forbid"):
            list(llm.stream("Once upon a", params))
    assert write(llm, wanted)[0] in ("ab", "ac"), "others are not affected"


def test_a_control_token_can_be_a_bad_word(llm: LLM) -> None:
    request = llm._maker.make(llm._maker.tokens("a"), SamplingParams(bad_words=("</s>",)))
    assert (2,) in request.bad_word_ids
