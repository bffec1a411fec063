"""`str.format` for templates: fields see what the sandbox lets a template see, and results have limits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.runtime import Undefined
from jinja2.sandbox import SandboxedFormatter

from octavo.chat.limits import LimitError, current

WIDE = re.compile(r"\d{5}")  # a width or precision over 9999


class Formatter(SandboxedFormatter):
    """Jinja's formatter, which asks the sandbox for attributes and items, with limits."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        """The value of "name.attribute[item]"."""
        current().tick()
        return super().get_field(field_name, args, kwargs)

    def convert_field(self, value: Any, conversion: Any) -> Any:
        self._check(value)
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> str:
        self._check(value)
        if WIDE.search(format_spec):
            raise LimitError("a format asks for a width over 9999")
        text: str = current().checked(super().format_field(value, format_spec))
        return text

    def _check(self, value: Any) -> None:
        if not isinstance(value, (str, int, float, list, tuple, Mapping, Undefined, type(None))):
            raise LimitError(f"it writes out a {type(value).__name__}")
        current().allow(current().size(value))
