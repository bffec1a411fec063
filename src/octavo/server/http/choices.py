"""The values that a field of a body may have, for errors: msgspec names only the wrong one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import inspect


def choices(kind: type, path: str) -> list[str]:
    """The words that the field at a path such as `tools[0].type` may be; none if it is not one of given words."""
    found = _words(inspect.type_info(kind), [name for name in re.split(r"[.\[\]]", path) if name])
    return list(dict.fromkeys(found))


def _words(node: inspect.Type, names: Sequence[str]) -> list[str]:
    match node:
        case inspect.UnionType(types=types):
            return [word for each in types for word in _words(each, names)]
        case inspect.Metadata(type=inner):
            return _words(inner, names)
        case inspect.LiteralType(values=values) if not names:
            return [str(value) for value in values]
        case inspect.StructType(fields=fields) if names:
            return [word for field in fields if field.encode_name == names[0] for word in _words(field.type, names[1:])]
        case inspect.ListType(item_type=item) if names:
            return _words(item, names[1:])
        case _:
            return []
