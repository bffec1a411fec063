"""The models of a server: found by name, loaded on first use, unloaded when idle or when memory is short."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from octavo.assembly.engine import engine_config
from octavo.backends import host
from octavo.backends.registry import device
from octavo.errors import OctavoError
from octavo.kv import planner
from octavo.models.registry import build_model, open_checkpoint
from octavo.server.http import errors
from octavo.server.http.errors import unavailable
from octavo.server.runtime import Runtime
from octavo.server.settings import ModelSource, ServerSettings
from octavo.weights.sources import resolve

log = logging.getLogger(__name__)
OVERHEAD = 192 << 20  # bytes of a process without its model: Python, libraries, scratch buffers


class ModelPool:
    def __init__(self, settings: ServerSettings):
        self.runtimes = [Runtime(model, settings) for model in settings.models]
        self._by_name = {alias: runtime for runtime in self.runtimes for alias in runtime.model.aliases}
        self._idle_seconds = settings.idle_seconds
        self._memory = settings.memory if settings.memory is not None else host.available_memory()
        self._held: dict[Runtime, int] = {}  # estimated bytes of each loaded model
        self._loading = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        return [runtime.name for runtime in self.runtimes]

    @property
    def ready(self) -> bool:
        """Whether every model that should be running is ready."""
        return all(runtime.ready for runtime in self.runtimes if runtime.model.eager or runtime.loaded)

    def find(self, name: str | None) -> Runtime:
        """The model of that name; the first model if `name` is None. Raises ApiError (404)."""
        if name is None:
            return self.runtimes[0]
        if name not in self._by_name:
            raise errors.no_model(name, list(self._by_name))
        return self._by_name[name]

    async def start(self) -> None:
        """Starts loading the eager models."""
        for runtime in self.runtimes:
            if runtime.model.eager:
                await self._load(runtime)

    @contextlib.asynccontextmanager
    async def use(self, name: str | None, timeout: float | None = None) -> AsyncIterator[Runtime]:
        """Loads the model if needed, and keeps it loaded within the block. Raises ApiError."""
        runtime = self.find(name)
        with runtime.in_use():
            if not runtime.loaded:
                await self._load(runtime)
            await runtime.wait_ready(timeout)
            yield runtime

    async def _load(self, runtime: Runtime) -> None:
        async with self._loading:
            if runtime.loaded:
                return
            try:
                needed = await asyncio.get_running_loop().run_in_executor(None, memory_needed, runtime.model)
            except OctavoError as error:
                raise unavailable(f"the model {runtime.name} cannot be loaded: {error}", None) from error
            await self._make_room(runtime, needed)
            self._held[runtime] = needed
            runtime.start()

    async def _make_room(self, runtime: Runtime, needed: int) -> None:
        """Unloads idle models, least recently used first. Raises ApiError (503) if that is not enough."""
        idle = sorted((each for each in self._held if each.users == 0), key=lambda each: each.last_used)
        while self._held and sum(self._held.values()) + needed > self._memory:
            if not idle:
                raise unavailable(
                    f"the model {runtime.name} needs {needed >> 20} MiB, and the other models leave "
                    f"{(self._memory - sum(self._held.values())) >> 20} MiB: try again when they are idle"
                )
            await self._unload(idle.pop(0), "memory is needed")

    async def _unload(self, runtime: Runtime, why: str) -> None:
        log.info("model %s unloaded: %s", runtime.name, why)
        self._held.pop(runtime, None)
        await runtime.stop()

    async def unload_idle(self) -> None:
        """Unloads models that have been idle for too long. Must be called regularly."""
        now = time.monotonic()
        for runtime in list(self._held):
            idle = runtime.users == 0 and now - runtime.last_used > self._idle_seconds
            if idle and not runtime.model.eager:
                async with self._loading:
                    if runtime.users == 0:
                        await self._unload(runtime, f"nobody asked for it in {self._idle_seconds:.0f} s")

    async def stop(self) -> None:
        await asyncio.gather(*(runtime.stop() for runtime in self.runtimes))


def memory_needed(model: ModelSource) -> int:
    """Bytes that a model needs with its settings: weights, KV pool and process. Raises OctavoError."""
    checkpoint = open_checkpoint(resolve(model.source))
    built = build_model(checkpoint)
    config = engine_config(**model.settings)
    config, cache = planner.resolve(config, device(config.backend), built.attention, built.max_context, checkpoint.size)
    blocks = cache.num_blocks * planner.block_bytes(built.attention, config.block_size, cache.dtype)
    return checkpoint.size + blocks + OVERHEAD
