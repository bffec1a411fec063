"""A prompt may end within its last message, which the answer then continues."""

from __future__ import annotations

from typing import Any

import pytest

from octavo import chat
from octavo.errors import RequestError
from tests.unit.chat.test_render import CHATML

TRIMMED = CHATML.replace("message['content']", "message['content']|trim")
ASK = {"role": "user", "content": "Count."}


def continued(template: str, text: Any, **more: Any) -> str:
    messages = [ASK, {"role": "assistant", "content": text, **more}]
    return chat.render(template, messages, continue_final_message=True)


@pytest.mark.parametrize(
    ("template", "text", "end"),
    [
        (CHATML, "One, two", "One, two"),
        (CHATML, "One, two, ", "One, two, "),
        (CHATML, "", ""),
        (CHATML, "Count.", "Count."),
        (CHATML, [{"type": "text", "text": "One,"}, {"type": "text", "text": "two"}], "One,\ntwo"),
        (TRIMMED, "\n One, two, ", "One, two,"),  # as transformers: what the template strips, the prompt does not have
    ],
)
def test_the_prompt_ends_with_the_message(template: str, text: Any, end: str) -> None:
    start = "<|im_start|>user\nCount.<|im_end|>\n<|im_start|>assistant\n"
    assert continued(template, text) == start + end


def test_no_answer_begins() -> None:
    for begin in (True, False):
        options = {"add_generation_prompt": begin, "continue_final_message": True}
        assert chat.render(CHATML, [ASK], **options) == "<|im_start|>user\nCount."


@pytest.mark.parametrize(
    ("template", "message", "why"),
    [
        (CHATML, {"content": None}, "has no text to continue"),
        (CHATML, {"content": "x", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, "calls tools"),
        ("{{ messages[0].content }}", {"content": "x"}, "does not write the last message"),
    ],
)
def test_what_cannot_be_continued(template: str, message: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        continued(template, message.pop("content"), **message)


def test_variables_with_another_source_are_refused() -> None:
    assert chat.checked_variables({"a": 1}, True) == {"a": 1, "enable_thinking": True}
    assert chat.checked_variables(None) == {}
    for name in chat.RESERVED:
        with pytest.raises(RequestError, match=f"chat_template_kwargs: '{name}'"):
            chat.checked_variables({name: 1})
