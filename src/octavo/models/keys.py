"""Typed, bounded reading of a model's metadata (GGUF keys or a config.json): every error names the key at fault."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from octavo.errors import ModelFileError
from octavo.types import Metadata


@dataclass(frozen=True, slots=True)
class Keys:
    """A view of `metadata` whose keys all start with `prefix` ("llama." in a GGUF file, "" in a config.json).

    A key that is absent or null falls back to `default`, and is an error if there is none.
    """

    metadata: Metadata
    prefix: str = ""

    def with_defaults(self, defaults: Metadata) -> Keys:
        """The same keys, and `defaults` for those that are absent."""
        return Keys({**{self.prefix + key: value for key, value in defaults.items()}, **self.metadata}, self.prefix)

    def get(self, key: str) -> Any:
        return self.metadata.get(self.prefix + key)

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = _uniform(self._value(key, default))
        try:
            number = operator.index(value)
        except TypeError:
            raise self._error(key, f"must be an integer, not {_shown(value)}") from None
        if isinstance(value, bool) or not low <= number <= high:
            raise self._error(key, f"must be {_between('an integer', low, high)}, not {_shown(value)}")
        return number

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = _uniform(self._value(key, default))
        try:
            number = math.nan if isinstance(value, (bool, str)) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not low <= number <= high:
            raise self._error(key, f"must be {_between('a number', low, high)}, not {_shown(value)}")
        return number

    def flag(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self._error(key, f"must be true or false, not {_shown(value)}")
        return value

    def flags(self, key: str, count: int) -> list[bool] | None:
        """An array of `count` entries that are true or false, or 0 or 1. None if `key` holds no array."""
        value = self.get(key)
        if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__len__"):
            return None
        entries = list(value)
        if len(entries) != count or any(entry not in (0, 1) for entry in entries):
            raise self._error(key, f"must be a number or {count} entries of 0 or 1, not {_shown(value)}")
        return [bool(entry) for entry in entries]

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self._error(key, f"must be a string, not {_shown(value)}")
        return value

    def table(self, key: str) -> Keys:
        """The nested table `key` of a config.json, empty if absent; its errors name the nested key."""
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise self._error(key, f"must be a table, not {_shown(value)}")
        return Keys({f"{self.prefix}{key}.{name}": entry for name, entry in value.items()}, f"{self.prefix}{key}.")

    def entries(self) -> dict[str, Any]:
        """All keys with this prefix, without it."""
        own = (key for key in self.metadata if key.startswith(self.prefix))
        return {key.removeprefix(self.prefix): self.metadata[key] for key in own}

    def expect_only(self, known: Collection[str]) -> None:
        """Refuses a key that is set, starts with the prefix and is not among `known`."""
        for key, value in self.entries().items():
            if value is not None and key not in known:
                raise self._error(key, f"is not supported here; supported: {', '.join(known)}")

    def _value(self, key: str, default: Any) -> Any:
        value = self.get(key)
        if value is None and default is None:
            raise self._error(key, "is missing")
        return default if value is None else value

    def _error(self, key: str, problem: str) -> ModelFileError:
        return ModelFileError(f"model metadata: {self.prefix}{key} {problem}")


def _uniform(value: Any) -> Any:
    """One value for all layers: GGUF allows an array a layer, which is only supported if its entries agree."""
    if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__len__"):
        return value
    entries = list(value)
    return entries[0] if entries and all(entry == entries[0] for entry in entries) else value


def _between(kind: str, low: float, high: float) -> str:
    return f"{kind} from {low} to {high}" if low < high else f"{low:g}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
