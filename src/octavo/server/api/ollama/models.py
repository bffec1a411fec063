"""Ollama's /api/tags, /api/ps, /api/show and /api/version: the models of this server."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from msgspec import Struct
from starlette.responses import Response

from octavo.answers.reasoning import reasoning_for
from octavo.models.registry import open_checkpoint
from octavo.server.api.common import state_of
from octavo.server.api.ollama.schemas import LATEST, OllamaError
from octavo.server.generation.job import LONG_TEXT, off_loop
from octavo.server.http import sse
from octavo.server.http.body import read
from octavo.server.http.errors import bad_request, unavailable
from octavo.server.http.openapi import describe
from octavo.server.model_pool import ModelPool
from octavo.server.runtime import Runtime
from octavo.types import Json
from octavo.weights.sources import find
from octavo.weights.summary import summarise

router = APIRouter()
# The release of Ollama whose API this is. Tools look at it to find out what they may use.
API_VERSION = "0.12.6"
FAR = datetime.timedelta(days=365)  # models that stay loaded expire in a year


class OllamaVersion(Struct):
    version: str


class Details(Struct):
    parent_model: str = ""
    format: str = ""
    family: str = ""
    families: list[str] = []
    parameter_size: str = ""
    quantization_level: str = ""


class OllamaModel(Struct, kw_only=True):
    """digest: identifies the file by name, size and time of change; it is no hash of the content."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class OllamaModels(Struct):
    models: list[OllamaModel]


class LoadedModel(OllamaModel, kw_only=True):
    expires_at: str
    size_vram: int
    context_length: int


class LoadedModels(Struct):
    models: list[LoadedModel]


class ShowRequest(Struct, kw_only=True):
    """name: an older form of model."""

    model: str | None = None
    name: str | None = None


class Shown(Struct):
    modelfile: str
    parameters: str
    template: str
    license: str
    details: Details
    model_info: Json
    capabilities: list[str]
    modified_at: str


class Described(Struct, frozen=True):
    """What a model file says. info: GGUF's metadata without lists."""

    size: int
    modified: float
    digest: str
    details: Details
    info: Json


UNKNOWN = Described(0, 0.0, "", Details(), {})


@router.get("/api/version", **describe(None, OllamaVersion, errors=OllamaError))
async def version() -> Response:
    return _json(OllamaVersion(API_VERSION))


@router.get("/api/tags", **describe(None, OllamaModels, errors=OllamaError))
async def tags(request: Request) -> Response:
    runtimes = state_of(request).pool.runtimes
    return _json(OllamaModels([OllamaModel(**await _card(each, name)) for each in runtimes for name in _names(each)]))


@router.get("/api/ps", **describe(None, LoadedModels, errors=OllamaError))
async def running(request: Request) -> Response:
    state = state_of(request)
    until = datetime.datetime.now(datetime.timezone.utc)
    idle = datetime.timedelta(seconds=min(state.settings.idle_seconds, FAR.total_seconds()))
    found = [
        LoadedModel(
            **await _card(each, _names(each)[0]),
            expires_at=_stamp(until + (FAR if each.model.eager else idle)),
            size_vram=0,
            context_length=each.info.max_model_len,
        )
        for each in state.pool.runtimes
        if each.ready
    ]
    return _json(LoadedModels(found))


@router.post("/api/show", **describe(ShowRequest, Shown, errors=OllamaError))
async def show(request: Request) -> Response:
    state = state_of(request)
    body = await read(request, ShowRequest, state.settings.limits, any_type=True)
    name = body.model or body.name
    if not name:
        raise bad_request("model is required", "model")
    async with state.pool.use(resolve_name(state.pool, name)) as runtime:
        found, info, tokenizer = await _described(runtime), runtime.info, runtime.tokenizer
        assert tokenizer is not None
        template = runtime.template if runtime.has_template else ""
        stops = [f"stop {json.dumps(tokenizer.token_text(token))}" for token in tokenizer.eos_ids]
        parameters = "\n".join([f"num_ctx {info.max_model_len}", *stops])
        lines = [f"FROM {runtime.name}", *(f"PARAMETER {line}" for line in parameters.split("\n"))]
        capable = {
            "completion": True,
            "insert": tokenizer.fill is not None,
            "tools": bool(template),
            "thinking": can_think(runtime),
        }
        return _json(
            Shown(
                "\n".join(lines),
                parameters,
                template,
                str(found.info.get("general.license", "")),
                found.details,
                found.info,
                [name for name, holds in capable.items() if holds],
                _stamp(datetime.datetime.fromtimestamp(found.modified, datetime.timezone.utc)),
            )
        )


def resolve_name(pool: ModelPool, name: str | None) -> str | None:
    """The served name that a client means: "small:latest" is "small", as in Ollama."""
    known = {alias for runtime in pool.runtimes for alias in runtime.model.aliases}
    return name.removesuffix(LATEST) if name is not None and name not in known else name


def can_think(runtime: Runtime) -> bool:
    """Whether a loaded model writes reasoning that answers separate."""
    return bool(runtime.has_template) and reasoning_for(runtime.template, runtime.model.reasoning_parser) is not None


def _names(runtime: Runtime) -> list[str]:
    """The names of a model, each with a tag: clients look for a name with one."""
    return [name if ":" in name else name + LATEST for name in runtime.model.aliases]


async def _card(runtime: Runtime, name: str) -> dict[str, Any]:
    found = await _described(runtime)
    return {
        "name": name,
        "model": name,
        "modified_at": _stamp(datetime.datetime.fromtimestamp(found.modified, datetime.timezone.utc)),
        "size": found.size,
        "digest": found.digest,
        "details": found.details,
    }


async def _described(runtime: Runtime) -> Described:
    """Raises ApiError if the file cannot be read. A model that is not downloaded yet is unknown."""

    def work() -> Described:
        path = find(runtime.model.source)
        return UNKNOWN if path is None else _read(path, path.stat().st_mtime)

    try:
        return await off_loop(work, LONG_TEXT)
    except OSError as error:
        raise unavailable(f"the file of the model {runtime.name} cannot be read: {error.strerror}", None) from error


@functools.lru_cache(maxsize=64)
def _read(path: Path, modified: float) -> Described:
    """Reads the file's metadata, which takes up to a second. modified: makes a changed file another entry."""
    with open_checkpoint(path) as checkpoint:
        facts = summarise(checkpoint)
        family, size = str(facts["architecture"] or ""), int(facts["size"])
        matrix = facts["quantization"][0]["type"] if facts["quantization"] else ""
        details = Details("", facts["format"].partition(" ")[0], family, [family], _count(facts["parameters"]), matrix)
        info: Json = {
            "general.architecture": family,
            "general.parameter_count": facts["parameters"],
            f"{family}.context_length": facts["context_length"],
            f"{family}.embedding_length": facts["hidden_size"],
            f"{family}.block_count": facts["layers"],
        }
        plain = (str, int, float, bool)
        info |= {key: value for key, value in checkpoint.metadata.items() if "." in key and isinstance(value, plain)}
        info.pop("tokenizer.chat_template", None)
    digest = hashlib.sha256(f"{path.name}\0{size}\0{modified}".encode()).hexdigest()
    return Described(size, modified, digest, details, info)


def _count(parameters: int) -> str:
    """134515008 -> "134.52M", as Ollama writes it."""
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.2f}M"


def _stamp(when: datetime.datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")


def _json(value: Struct) -> Response:
    return Response(sse.encode(value), media_type="application/json")
