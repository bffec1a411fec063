"""What the engine needs of a device: `Backend` runs steps on it; `Device` is what is known before a backend is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from octavo.config import CacheConfig, EngineConfig
from octavo.errors import EngineError
from octavo.ir import Model
from octavo.types import U8, Batch, Compaction, StepResult, Transfers

Options = Mapping[str, Any]
Progress = Callable[[int, int], None]  # (bytes of the model file that are loaded, bytes in all)


class BackendLost(EngineError):
    """A call of a backend that can run no further step, such as after an error of its device. The message says which.

    The engine does not look for a culprit: it raises this to its caller, which must start again with a new backend."""


class Facts(NamedTuple):
    """A device for people. memory: its bytes. used: those that are taken now, by whatever process."""

    name: str
    memory: int
    used: int


class Backend(Protocol):
    """Runs steps on a device. Owns the KV pool's memory; the control plane decides which sequence holds which block."""

    def transfer(self, transfers: Transfers) -> None:
        """Copies KV within the pool, before the next `run`. If it raises, the pool's content is unknown: the engine
        cannot go on.
        """

    def compact(self, compaction: Compaction) -> None:
        """Keeps a part of a prompt's KV. Called only where `Device.evictions` has "snapkv"; else as `transfer`."""

    def run(self, batch: Batch) -> StepResult:
        """Runs one step. A batch may be repeated, whole or in part, even after an error: it writes the same values to
        the same slots.
        """

    def share(self, model: Model) -> Backend:
        """A backend for another pass over the same model (`Model.with_layers`), on the same weights and KV cache, for
        batches of one token a sequence. Close this one last.
        """

    def memory(self) -> dict[str, int]:
        """Bytes by use: "weights", "kv", "scratch"."""

    def close(self) -> None: ...


class Ticket(Protocol):
    """A step that has been submitted."""

    def result(self) -> StepResult:
        """Waits for the step and returns its result, or raises what the step raised.

        Called at most once: a result that nobody needs any more is not asked for.
        """


@runtime_checkable
class AsyncBackend(Backend, Protocol):
    """A backend that computes while the engine plans the next step: see `octavo.ahead`."""

    def submit(self, batch: Batch) -> Ticket:
        """Starts a step and returns before it has run. `run` is this and `result`.

        Steps and transfers run in the order of their calls. `batch.token_ids` may refer to tokens of the step submitted
        just before, if its result has not been asked for yet: see `types.Batch`. If that step fails, this one's result
        is not asked for. `submit` raises only what is known without running the step, and then does not run it.
        """


@runtime_checkable
class Offloads(Backend, Protocol):
    """A backend whose KV blocks can leave the pool and come back: it makes a transfer's stores and loads.

    A block's bytes are those of all layers. Equal keys mean equal bytes, in any process with the same `kv_version`.
    """

    @property
    def block_bytes(self) -> int: ...

    def stage(self, rows: int) -> U8:
        """[rows, block_bytes]: main memory that stores write to and loads read from. Asked for once.

        Stores and loads are complete when `transfer` returns.
        """

    def host_pool(self) -> U8 | None:
        """[blocks, block_bytes]: the pool, if it is main memory. Other threads may write to a block that no step
        and no transfer uses. None: the device has separate memory."""


def no_options(options: Options) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Device:
    """What a kind of backend can do and would take, and how one is made. A backend's file defines `DEVICE`.

    make: a backend for a configuration with no "auto" left in it. Its last argument is another backend, which never
    runs at the same time, so that both can use the same threads, and the same weights if they are of one `Model`.
    footprint: what `Backend.memory` would say of it, without loading a weight.
    available_memory: bytes that all of it may take together, given the options.
    share: how much of this much free memory that is, for a device with memory of its own; None: the machine's serves.
    auto_pool: bytes of a KV pool whose size nobody has set, from the bytes that are available, those of the weights,
    and those of one context of full length.
    facts: what it is, asked of it where it is: its backend's process.
    kv_dtypes: how it can store keys and values. The first is what "auto" means.
    step_sizes: numbers of tokens that a step runs best with, rising, such as those of captured graphs. Empty: any.
    trees: whether it runs batches with `parents`. evictions: names in `kv.eviction` of what its batches may have.
    offload: which tiers can be below its pool (`kv.store`): "" none; "disk": its pool is main memory, so a tier in main
    memory would gain nothing; "ram": that too.
    kv_version: names the bytes of a block. It changes when a layout, or the arithmetic that fills it, changes.
    options: its settings that no other part of the engine looks at, with their default values.
    check_options: raises ConfigError for a value that an option cannot have. Not all options need be there.
    resolve_options: all options, with every "auto" turned into a value.

    Each may raise ConfigError, `make` and `footprint` also ModelFileError.
    """

    make: Callable[[Model, EngineConfig, CacheConfig, Progress | None, Backend | None], Backend]
    footprint: Callable[[Model, EngineConfig, CacheConfig], dict[str, int]]
    available_memory: Callable[[Options], int]
    auto_pool: Callable[[int, int, int], int]
    facts: Callable[[], Facts]
    kv_dtypes: tuple[str, ...]
    step_sizes: tuple[int, ...] = ()
    trees: bool = False
    share: Callable[[int, Options], int] | None = None
    offload: str = ""
    kv_version: str = ""
    evictions: tuple[str, ...] = ()
    options: Options = field(default_factory=dict)
    check_options: Callable[[Options], object] = no_options
    resolve_options: Callable[[Options], dict[str, Any]] = no_options


@runtime_checkable
class ProfiledBackend(Backend, Protocol):
    """A backend that can say what its time goes to."""

    def profile(self, on: bool) -> None:
        """Starts or stops measuring the seconds of each operation."""

    def profiled(self) -> dict[str, dict[str, float]]:
        """Seconds of each operation since `profile(True)`, the longest first. "decode": in steps of one token a
        sequence; "prefill": in the others."""


def branch(batch: Batch, row: int) -> list[int]:
    """The rows from a draft tree's first level down to node `row`; empty for an ordinary row."""
    rows: list[int] = []
    while batch.parents is not None and batch.parents[row] >= 0:
        rows.append(row)
        row = int(batch.parents[row])
    return rows[::-1]
