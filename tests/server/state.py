"""An answer of GET /octavo/state, as docs/server-state.md describes it."""

from __future__ import annotations

from typing import Any

SEQUENCES = [["chatcmpl-aaaa1111/0", 0, 150, 149, 100, 64], ["chatcmpl-bbbb2222", 0, 300, 128, 300, 64]]
# 4 shared, 3 and 2 of one sequence each, 5 cached, 6 free
BLOCKS = [[0, 2, 4], [0, 1, 3], [1, 1, 2], [-2, 0, 5], [-1, 0, 6]]
STATS = {
    "running": 2,
    "waiting": 1,
    "prefix_queries": 400,
    "prefix_hits": 100,
    "external_queries": 300,
    "external_hits": 60,
    "tier_hits": {"disk": 4},
    "swap_bytes_in": 12_000_000,
    "swap_bytes_out": 30_000_000,
    "load_seconds": 0.5,
    "drafts": 100,
    "draft_tokens": 300,
    "accepted_tokens": 210,
    "accepted_at": {"0": 90, "1": 70, "2": 50},
}
INFO = {
    "num_blocks": 20,
    "block_size": 32,
    "memory": {"weights": 96_000_000, "kv": 30_000_000, "scratch": 4_000_000},
    "device": "NVIDIA H100",
    "device_memory": 80_000_000_000,
}


def state(**changes: Any) -> dict[str, Any]:
    """The state of a server with one busy model. changes: of the model's fields."""
    model: dict[str, Any] = {
        "id": "fake-1",
        "state": "ready",
        "restarts": 0,
        "problem": None,
        "chat_template": True,
        "device_used": 7_000_000_000,
        "info": INFO,
        "queue": {"requests": 2, "tokens": 340},
        "throughput": [0] * 54 + [100, 110, 120, 130, 140, 7],
        "recent_ttft": [0.1] * 99 + [0.9],
        "recent_itl": [0.008] * 200,
        "snapshot": {"sequences": SEQUENCES, "blocks": BLOCKS, "stats": STATS, "fragmentation": 0.03},
    }
    return {"version": "0", "uptime": 1.0, "rss": 141_000_000, "models": [model | changes]}
