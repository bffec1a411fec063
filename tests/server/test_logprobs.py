"""The formats of logprobs: bytes of partial characters, names that never collide, offsets in the returned text."""

from __future__ import annotations

from octavo.outputs import Logprob, LogprobMap
from octavo.server.api import logprobs
from octavo.server.api.logprobs import CompletionLogprobs
from octavo.tokenizer import Tokenizer
from tests.tiny import spm_metadata
from tests.unit.tokenizer.tiny import byte_level

BYTES = Tokenizer.from_gguf(byte_level())
SPM = Tokenizer.from_gguf(spm_metadata())


def entries(*tokens: int) -> LogprobMap:
    """The first is the chosen one; the others follow by rank."""
    return {token: Logprob(-0.5 * rank, rank) for rank, token in enumerate(tokens, 1)}


def test_the_bytes_of_a_chats_tokens_join_to_the_text() -> None:
    text = "hello \U0001f642\u00e9"
    ids = BYTES.encode(text, add_special=False)
    content = logprobs.chat([entries(token, 7, 200) for token in ids], ids, 3, BYTES)["content"]
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == text
    assert "".join(entry["token"] for entry in content[:2]) == "hello "
    part = content[2]
    assert part["token"] == "bytes:\\xf0" and part["bytes"] == [0xF0] and len(part["top_logprobs"]) == 3


def test_tokens_without_a_text_have_different_names() -> None:
    """Two halves of characters, both U+FFFD as text: each keeps its value."""
    first, second = (BYTES.encode(text, add_special=False)[0] for text in ("\u00e9", "\U0001f642"))
    (found,) = CompletionLogprobs(BYTES, [1]).add([entries(first, second)], [first], 2)["top_logprobs"]
    assert found == {"bytes:\\xc3": -0.5, "bytes:\\xf0": -1.0}


def test_tokens_of_one_text_do_not_share_a_key() -> None:
    """<0x61> and the piece "a": the chosen one has the text as its name, the other its id."""
    piece, byte = SPM.encode("xa")[-1], SPM.token_bytes(3 + 0x61)[0] - 0x61 + 3 + 0x61
    assert SPM.token_bytes(piece) == SPM.token_bytes(byte) == b"a" and piece != byte
    writer = CompletionLogprobs(SPM, [1])
    (found,) = writer.add([entries(byte, piece)], [byte], 2)["top_logprobs"]
    assert found == {"a": -0.5, f"token_id:{piece}": -1.0}


def test_the_chosen_token_is_in_the_map_whatever_its_rank() -> None:
    maps: LogprobMap = {9: Logprob(-7.0, 40), 5: Logprob(-0.1, 1), 6: Logprob(-0.2, 2)}
    made = CompletionLogprobs(BYTES, [1]).add([maps], [9], 1)
    assert made["top_logprobs"] == [{BYTES.token_name(9): -7.0, BYTES.token_name(5): -0.1}]
    assert made["tokens"] == [BYTES.token_name(9)] and made["token_logprobs"] == [-7.0]


def test_offsets_are_places_in_the_text() -> None:
    text = "hello \u00e9\u00e9 world"
    ids = BYTES.encode(text, add_special=False)
    made = CompletionLogprobs(BYTES, None).add([None] * len(ids), ids, 0)
    for name, offset in zip(made["tokens"], made["text_offset"], strict=True):
        if not name.startswith("bytes:"):
            assert text.startswith(name, offset)
    assert [offset for name, offset in zip(made["tokens"], made["text_offset"], strict=True) if "xc3" in name] == [6, 7]


def test_an_echoed_prompt_and_its_answer() -> None:
    """The first word lacks the space that the tokenizer put there; the beginning-of-text token is not in the text."""
    prompt, answer = SPM.encode("Once upon a"), SPM.encode("time", add_special=False)
    ids, text = prompt + answer, "Once upon a time"
    maps: list[LogprobMap | None] = [None, *(entries(token) for token in ids[1:])]
    made = CompletionLogprobs(SPM, None).add(maps, ids, 1, text)
    assert made["tokens"][0] == "<s>" and made["text_offset"][:2] == [0, 0]
    assert "".join(made["tokens"][1:]) == text and made["tokens"][-1] == " time"
    for name, offset in list(zip(made["tokens"], made["text_offset"], strict=True))[1:]:
        assert text.startswith(name, offset)
    assert all(name in found for name, found in zip(made["tokens"][1:], made["top_logprobs"][1:], strict=True))


def test_a_streamed_answer_in_pieces() -> None:
    prompt, ids = SPM.encode("Once upon a"), SPM.encode("time there", add_special=False)
    writer = CompletionLogprobs(SPM, prompt)
    pieces = [writer.add([entries(token)], [token], 0) for token in ids]
    assert "".join(piece["tokens"][0] for piece in pieces) == " time there"
    assert [piece["text_offset"][0] for piece in pieces][:2] == [0, 5]


def test_control_tokens_that_a_prompt_spells_count() -> None:
    text = "<|im_start|>hello"
    ids = BYTES.encode(text, add_special=False)
    assert CompletionLogprobs(BYTES, None).add([None] * len(ids), ids, 0, text)["text_offset"] == [0, 12]
