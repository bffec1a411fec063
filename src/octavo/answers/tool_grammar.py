"""Grammars that force an answer to be tool calls."""

from __future__ import annotations

import json
from collections.abc import Sequence

from octavo.answers.tool_formats import CLOSE, HERMES, MISTRAL, OPEN, Format, takes_arguments
from octavo.answers.tool_schema import arguments_schema
from octavo.sampling.formats import without_unknown
from octavo.sampling_params import StructuredOutputs
from octavo.types import Json

NO_ARGUMENTS: Json = {"type": "object", "properties": {}, "additionalProperties": False}
MAX_CALLS = 16  # most calls in one answer that must call a tool
# The spacing of `json.dumps`, which models saw in training. With free white space, small models fill answers with it.
SPACING: Json = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}


def forced(form: Format, tools: Sequence[Json], parallel: bool) -> StructuredOutputs:
    """A grammar for answers that consist of one call of these tools; of up to MAX_CALLS calls if `parallel`.

    Mistral's calls have no tag here: it is a control token, which a grammar of text cannot name.
    """
    rules = [f"f{i}: %json {json.dumps(_call_schema(form, tool['function']))}" for i, tool in enumerate(tools)]
    body = " | ".join(f"f{i}" for i in range(len(tools)))
    more = f"{{0,{MAX_CALLS - 1}}}"
    if form is HERMES:
        several = f' ("\\n" call){more}' if parallel else ""
        rules = [f'call: "{OPEN}\\n" body "\\n{CLOSE}"', f"body: {body}", *rules]
        return StructuredOutputs(grammar="\n".join([f"start: call{several}", *rules]))
    if form is MISTRAL:
        several = f' (", " call){more}' if parallel else ""
        return StructuredOutputs(grammar="\n".join([f'start: "[" call{several} "]"', f"call: {body}", *rules]))
    return StructuredOutputs(grammar="\n".join([f"start: {body}", *rules]))


def _call_schema(form: Format, function: Json) -> Json:
    """The name comes first, so that a stream can send it early. `$defs` move to the root, where `$ref` looks."""
    given = without_unknown(function["parameters"]) if takes_arguments(function) else NO_ARGUMENTS
    parameters = arguments_schema(given)
    definitions: Json = {key: parameters.pop(key) for key in ("$defs", "definitions") if key in parameters}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, form.arguments: parameters},
        "required": ["name", form.arguments],
        "additionalProperties": False,
        "x-guidance": SPACING,
        **definitions,
    }
