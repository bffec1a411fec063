"""/docs: the OpenAPI description as one page of HTML, without scripts and without the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse

from octavo import __version__

PATH = "/docs"
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; }
h2 { border-top: 1px solid #8884; font-size: 1.05rem; margin: 2rem 0 .5rem; padding-top: 1rem; }
h2, td:first-child, code, pre { font-family: ui-monospace, monospace; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #8882; padding: .15rem 1rem .15rem 0; text-align: left; vertical-align: top; }
pre { background: #8881; border-radius: 6px; overflow-x: auto; padding: .6rem; }
nav { columns: 18rem; } nav a { display: block; font-family: ui-monospace, monospace; text-decoration: none; }
"""
ALTERNATIVES = ("prompt", "messages", "model")  # shown in the example of a request without a required field
Json = Mapping[str, Any]


def install(app: FastAPI) -> None:
    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(render(app.openapi(), str(request.base_url).rstrip("/")), headers=HEADERS)

    app.add_route(PATH, page, include_in_schema=False)


def render(schema: Json, url: str) -> str:
    """Returns the page for an OpenAPI document. url: of the server, for the examples."""
    kinds = schema["components"]["schemas"]
    routes = [
        (method.upper(), path, operation)
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    ]
    links = "".join(f'<a href="#{_anchor(method, path)}">{method} {escape(path)}</a>' for method, path, _ in routes)
    body = "".join(_route(method, path, operation, kinds, url) for method, path, operation in routes)
    title = f"Octavo {escape(__version__)}: the API"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><h1>{title}</h1>'
        f'<p>Generated from <a href="openapi.json">openapi.json</a>. Fields in bold must be given.</p>'
        f"<nav>{links}</nav>{body}</body></html>\n"
    )


def _anchor(method: str, path: str) -> str:
    return escape(f"{method}{path}".lower().replace("/", "-"))


def _route(method: str, path: str, operation: Json, kinds: Json, url: str) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    answers = operation["responses"]["200"]["content"]
    asked = _object("Request", content["schema"], kinds) if content else ""
    told = "".join(_object("Answer", each["schema"], kinds) for each in answers.values() if "schema" in each)
    streams = [kind for kind, each in answers.items() if "schema" not in each]
    more = f"<p>Streamed, it answers with {escape(', '.join(streams))}.</p>" if streams else ""
    head = f'<h2 id="{_anchor(method, path)}">{method} {escape(path)}</h2>'
    return f"{head}<pre>{escape(_curl(method, url + path, content, kinds))}</pre>{asked}{told}{more}"


def _curl(method: str, url: str, content: Json, kinds: Json) -> str:
    if method == "GET":
        return f"curl {url}"
    kind = _followed(content["schema"], kinds)
    properties = kind.get("properties", {})
    names = kind.get("required") or [name for name in ALTERNATIVES if name in properties][:1]
    body = {name: "{name}" if name == "model" else _example(properties[name], kinds) for name in names}
    return f"curl {url} -H 'Content-Type: application/json' \\\n    -d '{json.dumps(body)}'"


def _example(field: Json, kinds: Json) -> Any:
    """A value that the field accepts."""
    field = _followed(field, kinds)
    if "enum" in field or "const" in field:
        return field["enum"][0] if "enum" in field else field["const"]
    if "anyOf" in field:
        return _example(next(each for each in field["anyOf"] if each.get("type") != "null"), kinds)
    match field.get("type"):
        case "string":
            return "Hello"
        case "integer" | "number":
            return max(16, field.get("minimum", 0))
        case "boolean":
            return True
        case "array":
            return [_example(field.get("items", {}), kinds)]
        case _:
            properties = field.get("properties", {})
            return {name: _example(properties[name], kinds) for name in field.get("required", ())}


def _object(title: str, field: Json, kinds: Json) -> str:
    kind = _followed(field, kinds)
    required = set(kind.get("required", ()))
    rows = "".join(
        f"<tr><td>{_bold(escape(name), name in required)}</td><td>{escape(_type(each, kinds))}</td>"
        f"<td>{escape(_limits(each, kinds))}</td></tr>"
        for name, each in kind.get("properties", {}).items()
    )
    notes = kind.get("description", "").partition("\n\n")
    text = "".join(f"<p>{escape(part)}</p>" for part in (notes[0], notes[2]) if part)
    return f"<h3>{title}</h3>{text}<table>{rows}</table>" if rows else f"<h3>{title}</h3>{text}"


def _bold(text: str, bold: bool) -> str:
    return f"<b>{text}</b>" if bold else text


def _type(field: Json, kinds: Json) -> str:
    """A field's type in words: "text or list of numbers"."""
    if "$ref" in field:
        name = str(field["$ref"]).rpartition("/")[2]
        inner = kinds[name].get("properties", {})
        return f"{name} {{{', '.join(inner)}}}" if inner else name
    if "anyOf" in field:
        return " or ".join(_type(each, kinds) for each in field["anyOf"] if each.get("type") != "null")
    if "enum" in field:
        return " or ".join(json.dumps(value) for value in field["enum"])
    if "const" in field:
        return json.dumps(field["const"])
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}), kinds)}"
    return {"string": "text", "object": "object"}.get(field.get("type", ""), str(field.get("type", "anything")))


LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "minLength": "characters, at least",
    "maxLength": "characters, at most",
    "minItems": "items, at least",
    "maxItems": "items, at most",
}


def _limits(field: Json, kinds: Json) -> str:
    """The range and the default of a field, and its description."""
    found = [field, *(_followed(each, kinds) for each in field.get("anyOf", ()) if "$ref" not in each)]
    limits = [f"{text} {each[key]}" for each in found for key, text in LIMITS.items() if key in each]
    default = field.get("default")
    if default not in (None, [], ""):
        limits.append(f"default {json.dumps(default)}")
    notes = [each["description"] for each in found if "description" in each]
    return "; ".join([*limits, *notes])


def _followed(field: Json, kinds: Json) -> Json:
    if "$ref" not in field:
        return field
    found: Json = kinds[str(field["$ref"]).rpartition("/")[2]]
    return found
