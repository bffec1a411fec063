"""/octavo/state: the data of the live page (docs/server-state.md). Cheap enough to poll several times a second."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from octavo import __version__
from octavo.server.api.common import state_of
from octavo.server.engine.process_stat import resident_bytes
from octavo.server.http import sse
from octavo.server.runtime import Runtime

router = APIRouter()


@router.get("/octavo/state", include_in_schema=False)
async def live(request: Request) -> Response:
    state = state_of(request)
    runtimes = state.pool.runtimes
    sizes = [resident_bytes(pid) for pid in (os.getpid(), *(r.supervisor.pid for r in runtimes)) if pid is not None]
    known = [size for size in sizes if size is not None]
    made = {
        "version": __version__,
        "uptime": round(time.monotonic() - state.started, 1),
        "rss": sum(known) if known else None,
        "models": [model_state(runtime) for runtime in runtimes],
    }
    return Response(sse.encode(made), headers={"cache-control": "no-store"}, media_type="application/json")


def model_state(runtime: Runtime) -> dict[str, Any]:
    """The state of a model and its engine. The snapshot is the one that the previous call requested."""
    admission, metrics, info = runtime.admission, runtime.metrics, runtime.supervisor.info
    return {
        "id": runtime.name,
        **runtime.supervisor.describe(),
        "chat_template": runtime.has_template,
        "device_used": metrics.device_used,
        "info": None if info is None else msgspec.structs.asdict(info),
        "queue": {"requests": admission.waiting_requests, "tokens": admission.waiting_tokens},
        "throughput": metrics.throughput(),
        "recent_ttft": _rounded(metrics.recent_ttft),
        "recent_itl": _rounded(metrics.recent_itl),
        "processor_seconds": None if runtime.client is None else round(runtime.client.processor_seconds, 6),
        "snapshot": runtime.inspect(),
    }


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(value, 5) for value in values]
