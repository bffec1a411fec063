"""A last message of the assistant is continued, by every API and by `LLM.chat`, from the same prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from octavo import LLM, SamplingParams
from octavo.errors import RequestError
from tests.server.harness import Server

TALK: list[Any] = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One, two, "}]
PROMPT = "<|im_start|>user\nCount.<|im_end|>\n<|im_start|>assistant\nOne, two, "
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def expected(tiny: Server) -> tuple[str, int]:
    """(text, prompt tokens) of the continuation."""
    ids = tiny.post("/tokenize", {"prompt": PROMPT, "add_special_tokens": False})[1]["tokens"]
    status, answer = tiny.post("/v1/completions", {"prompt": ids, **GREEDY})
    assert status == 200
    return answer["choices"][0]["text"], len(ids)


def test_chat_completions(tiny: Server, expected: tuple[str, int]) -> None:
    body = {"messages": TALK, "continue_final_message": True, **GREEDY}
    for more in ({}, {"add_generation_prompt": False}):
        answer = tiny.post("/v1/chat/completions", body | more)[1]
        assert (answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens"]) == expected
    status, answer = tiny.post("/v1/chat/completions", body | {"add_generation_prompt": True})
    assert status == 400 and answer["error"]["param"] == "continue_final_message"
    fresh = tiny.post("/v1/chat/completions", {"messages": TALK, **GREEDY})[1]
    assert fresh["usage"]["prompt_tokens"] > expected[1], "without the flag a new message begins"


def test_messages(tiny: Server, expected: tuple[str, int]) -> None:
    answer = tiny.post("/v1/messages", {"messages": TALK, **GREEDY})[1]
    usage = answer["usage"]
    made = answer["content"][0]["text"] if answer["content"] else ""
    assert (made, usage["input_tokens"] + usage["cache_read_input_tokens"]) == expected
    assert tiny.post("/v1/messages/count_tokens", {"messages": TALK})[1]["input_tokens"] == expected[1]
    blocks = [TALK[0], {"role": "assistant", "content": [{"type": "text", "text": TALK[1]["content"]}]}]
    assert tiny.post("/v1/messages", {"messages": blocks, **GREEDY})[1]["content"] == answer["content"]
    use = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}
    status, answer = tiny.post("/v1/messages", {"messages": [TALK[0], use], **GREEDY})
    assert status == 400 and "calls tools" in answer["error"]["message"]


def test_tokenize(tiny: Server, expected: tuple[str, int]) -> None:
    assert tiny.post("/tokenize", {"messages": TALK, "continue_final_message": True})[1]["count"] == expected[1]


def test_llm(tiny_model: Path, expected: tuple[str, int]) -> None:
    with LLM(tiny_model) as llm:
        (output,) = llm.chat(TALK, SamplingParams(**GREEDY), continue_final_message=True)
        assert (output.outputs[0].text, len(output.prompt_token_ids)) == expected
        assert llm.render(TALK, continue_final_message=True)["prompt"] == PROMPT
        with pytest.raises(TypeError, match="enable_thinkin"):
            llm.chat(TALK, **cast(Any, {"enable_thinkin": False}))
        with pytest.raises(RequestError, match="'messages' cannot be set there"):
            llm.chat(TALK, chat_template_kwargs={"messages": []})


def test_llm_explains_tools_to_a_template_without_them(tiny_model: Path) -> None:
    tool = {"type": "function", "function": {"name": "get_weather"}}
    with LLM(tiny_model) as llm:
        assert '"get_weather"' in llm.render(TALK[:1], tools=[tool])["prompt"]
        assert "get_weather" not in llm.render(TALK[:1])["prompt"]
