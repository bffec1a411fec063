"""Decides what each step runs: `continuous`, or `static`, the baseline."""

from __future__ import annotations

import time
from collections.abc import Callable

from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.kv.manager import CacheManager
from octavo.scheduler.continuous import ContinuousScheduler
from octavo.scheduler.static import StaticScheduler

SCHEDULERS = {"continuous": ContinuousScheduler, "static": StaticScheduler}


def create(
    config: EngineConfig, cache: CacheManager, clock: Callable[[], float] = time.monotonic
) -> ContinuousScheduler:
    """The scheduler that `config.scheduler` names. clock: seconds, for deadlines and for the pace of prompts."""
    if config.scheduler not in SCHEDULERS:
        raise ConfigError(f"scheduler must be one of {', '.join(SCHEDULERS)}; got {config.scheduler!r}")
    return SCHEDULERS[config.scheduler](config, cache, clock)
