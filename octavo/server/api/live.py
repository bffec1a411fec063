"""/octavo/state: what the live page shows, made to be asked a few times a second."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from octavo.server import sse
from octavo.server.api.common import state_of
from octavo.server.runtime import Runtime
from octavo.server.watch import Watch

router = APIRouter()


@router.get("/octavo/state", include_in_schema=False)
async def live(request: Request) -> Response:
    """{"uptime", "draining", "requests", "models": [see `model_state`]}. Times are seconds."""
    state = state_of(request)
    made = {
        "uptime": round(time.monotonic() - state.started, 1),
        "draining": state.draining,
        "requests": state.exchanges,
        "models": [model_state(runtime) for runtime in state.pool.runtimes],
    }
    return Response(sse.encode(made), media_type="application/json")


def model_state(runtime: Runtime) -> dict[str, Any]:
    """A model and its engine.

    sequences, blocks: see `engine_report.snapshot`; they are at most one question old. throughput: tokens in each of
    the last 60 seconds. ttft, itl: recent latencies, the latest last.
    """
    seen, info, watch = runtime.inspect(), runtime.supervisor.info, runtime.watch
    return {
        "name": runtime.name,
        **runtime.supervisor.describe(),
        "running": watch.gauge("running"),
        "waiting": watch.gauge("waiting"),
        "queued": runtime.admission.waiting_requests,
        "kv_usage": round(watch.gauge("kv_usage"), 4),
        "tokens_per_second": round(watch.tokens_per_second(3), 1),
        "throughput": watch.throughput(),
        "ttft": _rounded(watch.recent_ttft),
        "itl": _rounded(watch.recent_itl),
        "num_blocks": info.num_blocks if info else 0,
        "block_size": info.block_size if info else 0,
        "max_num_seqs": info.max_num_seqs if info else 0,
        "max_model_len": info.max_model_len if info else 0,
        "sequences": seen.get("sequences", []),
        "blocks": seen.get("blocks", []),
        "fragmentation": round(seen.get("fragmentation", 0.0), 4),
        "prefix": {"queries": watch.total("prefix_queries"), "hits": watch.total("prefix_hits")},
        "preemptions": watch.total("preemptions"),
        "speculation": speculation(watch),
    }


def speculation(watch: Watch) -> dict[str, Any]:
    drafted, accepted = watch.total("draft_tokens"), watch.total("accepted_tokens")
    return {
        "drafts": watch.total("drafts"),
        "draft_tokens": drafted,
        "accepted_tokens": accepted,
        "acceptance": round(accepted / drafted, 4) if drafted else None,
        "accepted_at": sorted(watch.counted("accepted_at").items()),
        "draft_lengths": sorted(watch.counted("draft_lengths").items()),
    }


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(value, 5) for value in values]
