"""The state that all routes of a server share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from octavo.server.model_pool import ModelPool
from octavo.server.settings import ServerSettings


@dataclass(eq=False, slots=True)
class ServerState:
    """draining: new requests are refused. active_requests: generation requests that wait or run."""

    settings: ServerSettings
    pool: ModelPool
    draining: bool = False
    active_requests: int = 0
    started: float = field(default_factory=time.monotonic)
