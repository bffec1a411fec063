"""The sampling settings in a chat: as `/set` reads and shows them, and as a saved chat keeps them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from octavo.cli.options import SAMPLING
from octavo.errors import RequestError
from octavo.sampling_params import SamplingParams

SWITCHES = {"on": True, "true": True, "off": False, "false": False}


def texts(value: str) -> tuple[str, ...]:
    """Parses a JSON list of texts; anything else is one text."""
    try:
        found = json.loads(value)
    except ValueError:
        found = None
    return tuple(found) if isinstance(found, list) else (value,)


# What a value is written as, by the type of its option; the kind's name is for errors.
PARSERS: dict[Any, tuple[str, Callable[[str], Any]]] = {
    int: ("a number", int),
    float: ("a number", float),
    int | None: ("a number, or none", int),
    bool: ("on or off", lambda value: SWITCHES[value.lower()]),
    list[str]: ("a text or a JSON list of texts, or none", texts),
    list[int]: ("token ids separated by commas, or none", lambda value: tuple(map(int, value.split(",")))),
}
SETTABLE = {row.name: row.type for row in SAMPLING.rows if row.parse is None}
EMPTY: dict[Any, Any] = {int | None: None, list[str]: (), list[int]: ()}  # what "none" means


def changed(params: SamplingParams, name: str, value: str) -> SamplingParams:
    """Returns the settings with one changed; they are not checked. Raises RequestError."""
    kind = SETTABLE.get(name)
    if kind is None:
        raise RequestError(f"there is no setting {name!r} here: choose from {', '.join(SETTABLE)}", name)
    expected, parse = PARSERS[kind]
    try:
        made = EMPTY[kind] if value.lower() == "none" and kind in EMPTY else parse(value)
    except (ValueError, KeyError):
        raise RequestError(f"{name} must be {expected}; got {value!r}", name) from None
    return with_values(params, {name: made})


def with_values(params: SamplingParams, values: Mapping[str, Any]) -> SamplingParams:
    made: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    if made.get("allowed_token_ids") == ():
        made["allowed_token_ids"] = None
    return dataclasses.replace(params, **made)


def values_of(params: SamplingParams) -> dict[str, Any]:
    """Returns the settings that differ from the command's defaults, as JSON types."""
    found = {name: getattr(params, name) for name in SETTABLE}
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    return {name: value for name, value in lists.items() if (value or None) != (SAMPLING.defaults[name] or None)}


def shown(params: SamplingParams) -> list[str]:
    """Returns "name value" for each setting that can be shown in a word, and for each list that is not empty."""
    found = [(name, getattr(params, name)) for name in SETTABLE]
    plain = [(name, SWITCH_WORDS.get(value, value) if isinstance(value, bool) else value) for name, value in found]
    return [
        f"{name} {json.dumps(list(value), ensure_ascii=False) if isinstance(value, tuple) else value}"
        for name, value in plain
        if value != () and not (value is None and SETTABLE[name] in (list[int], list[str]))
    ]


SWITCH_WORDS = {True: "on", False: "off"}
