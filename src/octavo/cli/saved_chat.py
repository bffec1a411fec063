"""Chats in files, for /save and /load: the body of a /v1/chat/completions request, so that other programs read it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from octavo.chat.messages import normalise
from octavo.cli.sampling_text import SETTABLE
from octavo.errors import RequestError

Messages = list[dict[str, Any]]


def save(name: str, model: str, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Path:
    """Writes a chat and returns its file. Replaces a saved chat, and no other file. Raises RequestError."""
    path = _path(name, "/save")
    if path.exists():
        try:
            load(name)
        except RequestError:
            raise RequestError(f"{path} exists and is not a saved chat: choose another name") from None
    body = {"model": model, "messages": list(messages), **settings}
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RequestError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def load(name: str) -> tuple[Messages, dict[str, Any]]:
    """Returns the messages and the sampling settings of a saved chat. Raises RequestError."""
    path = _path(name, "/load")
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not a saved chat: {error}") from None
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise RequestError(f"{path} is not a saved chat: it has no list of messages")
    settings = {key: value for key, value in body.items() if key not in ("model", "messages")}
    if strange := settings.keys() - SETTABLE.keys():
        raise RequestError(f"{path}: there is no setting {min(strange)!r} in a chat")
    return _checked(path, body["messages"]), settings


def _checked(path: Path, given: list[Any]) -> Messages:
    try:
        messages = normalise(given)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    for i, message in enumerate(messages):
        if not isinstance(message.get("content"), str):
            raise RequestError(f"{path}: messages[{i}]: a text as content is needed")
    return messages


def _path(name: str, command: str) -> Path:
    if not name:
        raise RequestError(f"name a file: {command} chat.json")
    return Path(name).expanduser()
