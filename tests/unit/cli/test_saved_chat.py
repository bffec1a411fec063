"""/set, /save and /load: settings as text and as JSON, conversations as request bodies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from octavo.cli.options import SAMPLING, sampling_params
from octavo.cli.sampling_text import SETTABLE, changed, shown, values_of, with_values
from octavo.cli.saved_chat import load, save
from octavo.errors import RequestError

START = sampling_params({row.name: SAMPLING.defaults[row.name] or [] for row in SAMPLING.rows if row.type == list[str]}
    | {row.name: [] for row in SAMPLING.rows if row.type == list[int]}
    | {row.name: SAMPLING.defaults[row.name] for row in SAMPLING.rows if "list" not in str(row.type)})  # fmt: skip
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Héllo\n世界"}]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0.2", 0.2),
        ("top_k", "40", 40),
        ("seed", "7", 7),
        ("seed", "none", None),
        ("max_tokens", "None", None),
        ("ignore_eos", "on", True),
        ("ignore_eos", "False", False),
        ("stop", "###", ("###",)),
        ("stop", '["a b", "c"]', ("a b", "c")),
        ("stop", "none", ()),
        ("stop_token_ids", "1, 2", (1, 2)),
        ("allowed_token_ids", "none", None),
    ],
)
def test_set(name: str, text: str, value: Any) -> None:
    assert getattr(changed(START, name, text), name) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("temperature", "warm", "temperature must be a number; got 'warm'"),
        ("temperature", "none", "temperature must be a number"),
        ("ignore_eos", "perhaps", "ignore_eos must be on or off"),
        ("stop_token_ids", "x", "stop_token_ids must be token ids"),
        ("logit_bias", "1=2", "there is no setting 'logit_bias' here: choose from temperature"),
    ],
)
def test_bad_settings_are_named(name: str, text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        changed(START, name, text)


def test_settings_are_shown_and_kept() -> None:
    assert values_of(START) == {}
    params = changed(changed(changed(START, "stop", "###"), "seed", "7"), "temperature", "0")
    assert values_of(params) == {"temperature": 0.0, "seed": 7, "stop": ["###"]}
    assert with_values(START, values_of(params)) == params
    assert {"temperature 0.0", "seed 7", 'stop ["###"]', "ignore_eos off"} <= {*shown(params)}
    assert not any(text.startswith(("stop ", "allowed")) for text in shown(START))
    assert {text.split()[0] for text in shown(params)} <= {*SETTABLE}


def test_a_chat_survives_its_file(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    assert save(str(file), "m", TALK, {"seed": 7}) == file
    assert json.loads(file.read_text()) == {"model": "m", "messages": TALK, "seed": 7}
    assert load(str(file)) == (TALK, {"seed": 7})
    save(str(file), "m", TALK[:1], {})  # a saved chat is replaced
    assert load(str(file)) == (TALK[:1], {}) and [*tmp_path.iterdir()] == [file]


def test_another_file_is_never_replaced(tmp_path: Path) -> None:
    for name, text in (("notes.py", "import this"), ("data.json", '{"rows": []}')):
        (tmp_path / name).write_text(text)
        with pytest.raises(RequestError, match="exists and is not a saved chat"):
            save(str(tmp_path / name), "m", TALK, {})
        assert (tmp_path / name).read_text() == text
    with pytest.raises(RequestError, match="cannot write"):
        save(str(tmp_path / "no" / "folder.json"), "m", TALK, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read"),
        ("", "is not a saved chat"),
        ("[]", "it has no list of messages"),
        ('{"messages": "hi"}', "it has no list of messages"),
        ('{"messages": [{"content": "hi"}]}', "an object with a role"),
        ('{"messages": [{"role": "user"}]}', "a text as content"),
        ('{"messages": [], "tools": []}', "there is no setting 'tools'"),
        ("[" * 100_000, "is not a saved chat"),
    ],
)
def test_what_cannot_be_loaded_is_said(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "chat.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(RequestError, match=message):
        load(str(file))
    with pytest.raises(RequestError, match="name a file: /load"):
        load("")
