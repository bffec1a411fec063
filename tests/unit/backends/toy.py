"""A device as a contributor would write it: one file, named in `backends.registry.DEVICES`. It computes nothing."""

from __future__ import annotations

from octavo.backends.base import Backend, Device, Facts, Options, Progress
from octavo.backends.null import NullBackend
from octavo.config import CacheConfig, EngineConfig, check_integer
from octavo.ir import Model

OPTIONS = {"lanes": 1, "share": None}
LANE_BYTES = 1 << 20


class ToyBackend(NullBackend):
    def __init__(self, model: Model, cache: CacheConfig, lanes: int, beside: Backend | None):
        super().__init__(cache, model.vocab_size)
        self.lanes, self.beside = lanes, beside


def check_options(options: Options) -> None:
    check_integer("lanes", options.get("lanes", 1), 8)


def resolve_options(options: Options) -> dict[str, object]:
    made = OPTIONS | dict(options)
    return made | {"share": made["share"] or 0.5}


def make(
    model: Model, config: EngineConfig, cache: CacheConfig, progress: Progress | None, beside: Backend | None
) -> Backend:
    return ToyBackend(model, cache, config.backend_options["lanes"], beside)


def footprint(model: Model, config: EngineConfig, cache: CacheConfig) -> dict[str, int]:
    return {"weights": 7, "kv": 16 * cache.num_blocks * cache.block_size, "scratch": config.backend_options["lanes"]}


DEVICE = Device(
    make=make,
    footprint=footprint,
    available_memory=lambda options: LANE_BYTES * options["lanes"],
    auto_pool=lambda available, weights, context: available,
    facts=lambda: Facts("a toy", 4 * LANE_BYTES, LANE_BYTES),
    kv_dtypes=("int8", "f32"),
    step_sizes=(4, 16, 64),
    options=OPTIONS,
    check_options=check_options,
    resolve_options=resolve_options,
)
