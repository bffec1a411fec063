"""The reference: every operation of `Ops` in float32 numpy, computed immediately. Other backends are tested against
it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.backends import host
from octavo.backends.base import Backend, Device, Progress, branch
from octavo.backends.plan.key_offsets import KeyOffset, key_offsets, middle
from octavo.backends.reference_kv import QUANTISED, PagedCache, Plane
from octavo.config import CacheConfig, EngineConfig
from octavo.errors import ConfigError
from octavo.ir import ROWS, Attention, Model, Rope, Weight
from octavo.kv.eviction import kept_positions, seen
from octavo.kv.planner import block_bytes
from octavo.kv.snapkv import choose
from octavo.sampling import rules
from octavo.sampling.arrays import build as no_sampling
from octavo.types import F32, I32, Batch, Compaction, StepResult, Transfers
from octavo.weights.dequantize import dequantize, dequantize_rows

WEIGHT_MEMORY = 2 << 30  # bytes of dequantised weights to keep by default
SLICE = 1 << 24  # values of a weight dequantised at once when it is not kept: 64 MB
NO_OFFSETS: Mapping[int, KeyOffset] = {}
SCORES = 1 << 25  # attention scores held at once: 128 MB


class ReferenceBackend:
    """Runs batches in numpy.

    weight_memory: bytes of float32 weights to keep; what does not fit is dequantised in slices each time it is used.
    """

    def __init__(self, model: Model, cache: CacheConfig, weight_memory: int = WEIGHT_MEMORY):
        if any(weight.layout != ROWS for weight in model.weights.values()):
            raise ConfigError("backend reference cannot run an artifact: give it the original model file")
        self.model = model
        self.cache = PagedCache(cache, model.attention)
        self.offsets = key_offsets(model) if cache.dtype in QUANTISED else {}
        self.weights = DenseWeights(weight_memory)

    def share(self, model: Model) -> ReferenceBackend:
        other = copy.copy(self)
        other.model = model
        return other

    def transfer(self, transfers: Transfers) -> None:
        self.cache.move_slots(transfers.moves)
        self.cache.copy_blocks(transfers.copies)

    def compact(self, compaction: Compaction) -> None:
        window, table = len(compaction.token_ids), compaction.block_table[None]
        positions = np.arange(compaction.length - window, compaction.length, dtype=np.int32)
        last = np.array([window - 1], np.int32)
        batch = Batch(
            token_ids=compaction.token_ids,
            positions=positions,
            slot_mapping=self.cache.slots(table[0], compaction.length)[-window:],
            query_starts=np.array([0, window], np.int32),
            context_lens=np.array([compaction.length], np.int32),
            block_tables=table,
            logit_rows=last,
            targets=last,
            sampling=no_sampling([], self.model.vocab_size),
        )
        with np.errstate(all="ignore"):
            self.model.forward(ReferenceOps(batch, self.cache, self.weights, compaction=compaction))

    def run(self, batch: Batch) -> StepResult:
        ops = ReferenceOps(batch, self.cache, self.weights, self.offsets)
        with np.errstate(all="ignore"):  # a NaN is reported by `StepResult.finite`
            logits = self.model.forward(ops)
            result = rules.result(logits, batch)
        result.hidden = ops.hidden if batch.want_hidden else None
        return result

    def memory(self) -> dict[str, int]:
        return {"weights": self.weights.nbytes, "kv": self.cache.nbytes, "scratch": 0}

    def close(self) -> None:
        self.weights.clear()


class DenseWeights:
    """Weights as float32, kept until `limit` bytes are used.

    There is no eviction: a pass reads all weights in turn, so eviction would always drop the weight needed next.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.nbytes = 0
        self._kept: dict[Weight, F32] = {}

    def whole(self, weight: Weight) -> F32 | None:
        """The weight, or None if it does not fit."""
        if weight not in self._kept:
            if not fits(weight, self.limit - self.nbytes):
                return None
            self._kept[weight] = dequantize(weight)
            self.nbytes += float_bytes(weight)
        return self._kept[weight]

    def slices(self, weight: Weight) -> Iterator[tuple[slice, F32]]:
        """(rows, their values): all at once if the weight is kept."""
        whole = self.whole(weight)
        step = weight.shape[0] if whole is not None else max(1, SLICE // weight.shape[1])
        for start in range(0, weight.shape[0], step):
            rows = slice(start, start + step)
            yield rows, dequantize_rows(weight, rows) if whole is None else whole

    def clear(self) -> None:
        self._kept.clear()
        self.nbytes = 0


def float_bytes(weight: Weight) -> int:
    return 4 * int(np.prod(weight.shape))


def fits(weight: Weight, room: int) -> bool:
    """Whether a weight is kept. Vectors always are."""
    return float_bytes(weight) <= room or len(weight.shape) == 1


class ReferenceOps:
    """`Ops` over one batch of T tokens; a tensor is a float32 array. offsets: by layer; see `key_offsets`."""

    def __init__(
        self,
        batch: Batch,
        cache: PagedCache,
        weights: DenseWeights,
        offsets: Mapping[int, KeyOffset] = NO_OFFSETS,
        compaction: Compaction | None = None,
    ):
        self.batch = batch
        self.compaction = compaction
        self.cache = cache
        self.weights = weights
        self.offsets = offsets
        self.hidden: F32 | None = None  # [R, K]: the language-model head's input
        self._at_sinks: dict[int, tuple[F32, F32]] = {}  # by id: a rotated tensor, and it as sinks are seen by it

    def embed(self, table: Weight, scale: float = 1.0) -> F32:
        rows: F32 = dequantize_rows(table, self.batch.token_ids) * np.float32(scale)
        return rows

    def rms_norm(self, x: F32, weight: Weight, eps: float) -> F32:
        rows: F32 = x.reshape(-1, weight.shape[0])
        mean_square: F32 = np.mean(rows * rows, axis=-1, keepdims=True)
        normed: F32 = rows / np.sqrt(mean_square + np.float32(eps)) * self._vector(weight)
        return normed.reshape(x.shape)

    def linear(self, x: F32, weight: Weight, bias: Weight | None = None) -> F32:
        y = np.empty((len(x), weight.shape[0]), np.float32)
        for rows, values in self.weights.slices(weight):
            y[:, rows] = x @ values.T
        return y if bias is None else y + self._vector(bias)

    def rope(self, x: F32, rope: Rope, heads: int) -> F32:
        turned = rotated(x, rope, heads, self.batch.positions)
        if self.batch.sink_positions is not None:  # the second query, if x is one
            self._at_sinks[id(turned)] = (turned, rotated(x, rope, heads, np.maximum(self.batch.sink_positions, 0)))
        return turned

    def attention(self, q: F32, k: F32, v: F32, layer: int, spec: Attention) -> F32:
        batch, (keys, values) = self.batch, self.cache.layers[layer]
        new = k.reshape(-1, spec.kv_heads, spec.head_dim)
        keys.write(batch.slot_mapping, new - self._offset(layer, spec, batch.positions))
        values.write(batch.slot_mapping, v.reshape(-1, spec.kv_heads, spec.value_dim))
        if self.compaction is not None:
            self._compact(self.compaction, q, keys, values, spec)
        out = np.empty((len(q), spec.heads * spec.value_dim), np.float32)
        for s, length in enumerate(batch.context_lens):
            span = slice(batch.query_starts[s], batch.query_starts[s + 1])
            slots = self.cache.slots(batch.block_tables[s], int(length))
            nodes = [] if batch.parents is None else np.flatnonzero(batch.parents[span] >= 0) + span.start
            stop = span.stop - len(nodes)
            context = slots[: int(length) - len(nodes)]
            if batch.sinks is not None and batch.sinks[s]:
                out[span] = self._attend_evicting(q, s, span, slots, keys, values, spec)
                continue
            offset = self._offset(layer, spec, np.arange(int(length), dtype=np.int32))
            read = keys.read(context) + offset[: len(context)]
            out[span.start : stop] = attend(q[span.start : stop], read, values.read(context), spec)
            for node in nodes:
                seen = np.concatenate([context, batch.slot_mapping[branch(batch, int(node))]])
                read = keys.read(seen) + offset[: len(seen)]
                out[node : node + 1] = attend(q[node : node + 1], read, values.read(seen), spec)
        return out

    def _offset(self, layer: int, spec: Attention, positions: I32) -> F32:
        """[len(positions), kv_heads, head_dim]: what keys are cached less. [len(positions), 1, 1] where that is 0."""
        if layer not in self.offsets:
            return np.zeros((len(positions), 1, 1), np.float32)
        bias, rope = self.offsets[layer]
        rows = np.repeat(self._vector(bias)[None], len(positions), 0)
        return rotated(rows, rope, spec.kv_heads, middle(positions)).reshape(-1, spec.kv_heads, spec.head_dim)

    def _compact(self, compaction: Compaction, q: F32, keys: Plane, values: Plane, spec: Attention) -> None:
        """Copies what each KV head keeps. A layer with a window keeps its last keys, which it sees by their places."""
        source = self.cache.slots(compaction.block_table, compaction.length)
        target = self.cache.slots(compaction.targets, compaction.keep)
        mass = attention_mass(q, keys.read(source), spec)
        for head in range(spec.kv_heads):
            kept = choose(mass[head], len(q), compaction.keep, compaction.pool)
            if spec.window:
                kept = np.arange(compaction.length - compaction.keep, compaction.length, dtype=np.int32)
            keys.copy_head(head, source[kept], target)
            values.copy_head(head, source[kept], target)

    def _attend_evicting(
        self, q: F32, s: int, span: slice, slots: I32, keys: Plane, values: Plane, spec: Attention
    ) -> F32:
        """A sequence that keeps sinks and recent tokens: see `types.Batch`. Each row by itself, as the rule reads."""
        batch = self.batch
        assert batch.sinks is not None and batch.windows is not None
        sinks, window = int(batch.sinks[s]), int(batch.windows[s])
        far = q if spec.window else self._at_sinks.get(id(q), (q, q))[1]
        nodes = 0 if batch.parents is None else int((batch.parents[span] >= 0).sum())
        rows = span.stop - span.start
        straight, first = len(slots) - nodes, int(batch.positions[span.start])
        places = kept_positions(straight, first + rows - nodes, sinks, self.cache.block_size)
        out = np.empty((rows, spec.heads * spec.value_dim), np.float32)
        for row in range(span.start, span.stop):
            own = branch(batch, row)
            seen_slots = np.concatenate([slots[:straight], batch.slot_mapping[own]]) if own else slots[:straight]
            at = np.concatenate([places, batch.positions[own]]) if own else places
            position = int(batch.positions[row])
            sees = (at <= position) & seen(position, at, 0 if spec.window else sinks, window)
            if spec.window:
                sees &= at > position - spec.window
            k, v = keys.read(seen_slots[sees]), values.read(seen_slots[sees])
            near = np.where((at[sees] < sinks)[:, None, None], np.float32(0), k)
            out[row - span.start] = attend_two(q[row], far[row], near, k - near, v, spec)
        return out

    def add(self, x: F32, y: F32) -> F32:
        return x + y

    def gated(self, gate: F32, up: F32, activation: str) -> F32:
        return ACTIVATIONS[activation](gate) * up

    def logit_rows(self, x: F32) -> F32:
        return x[self.batch.logit_rows]

    def logits(self, x: F32, head: Weight, softcap: float = 0.0) -> F32:
        self.hidden = x
        return soft_cap(self.linear(x, head), softcap)

    def _vector(self, weight: Weight) -> F32:
        values = self.weights.whole(weight)
        assert values is not None  # vectors always fit
        return values


def rotated(x: F32, rope: Rope, heads: int, positions: I32) -> F32:
    """`Ops.rope` at these positions: x [T, heads * head_dim]."""
    angles = np.multiply.outer(positions.astype(np.float64), rope.inv_freq.astype(np.float64))
    cos = (np.cos(angles) * rope.scale).astype(np.float32)[:, None]  # [T, 1, dim / 2]: the same for each head
    sin = (np.sin(angles) * rope.scale).astype(np.float32)[:, None]
    dim, by_head = 2 * len(rope.inv_freq), x.reshape(len(x), heads, -1)
    order, axis = ((heads, -1, 2), 3) if rope.interleaved else ((heads, 2, -1), 2)
    a, b = np.moveaxis(by_head[..., :dim].reshape(len(x), *order), axis, 0)  # each [T, heads, dim / 2]
    turned = np.stack([a * cos - b * sin, a * sin + b * cos], axis).reshape(len(x), heads, dim)
    return np.concatenate([turned, by_head[..., dim:]], axis=-1).reshape(x.shape)


def attend(q: F32, k: F32, v: F32, spec: Attention) -> F32:
    """Causal attention of a sequence's last n tokens over its context of C tokens: [n, heads * value_dim].

    q [n, heads * head_dim]; k [C, kv_heads, head_dim]; v [C, kv_heads, value_dim]. Query heads are taken in groups that
    share a key/value head.
    """
    n, context = len(q), len(k)
    grouped = q.reshape(n, spec.kv_heads, -1, spec.head_dim).transpose(1, 2, 0, 3)  # [kv_heads, group, n, head_dim]
    keys, values = k.transpose(1, 2, 0)[:, None], v.transpose(1, 0, 2)[:, None]
    out = np.empty((*grouped.shape[:-1], spec.value_dim), np.float32)
    tile = max(1, SCORES // (spec.heads * context))
    for start in range(0, n, tile):
        rows = slice(start, min(start + tile, n))
        scores = soft_cap(grouped[:, :, rows] @ keys * np.float32(spec.scale), spec.softcap)
        scores[..., ~visible(context - n + np.arange(rows.start, rows.stop), context, spec.window)] = -np.inf
        out[:, :, rows] = softmax(scores) @ values
    return out.transpose(2, 0, 1, 3).reshape(n, -1)


def attention_mass(q: F32, k: F32, spec: Attention) -> F32:
    """[kv_heads, C]: the softmax weights of a sequence's last n queries, summed over these and over query heads.

    q [n, heads * head_dim]; k [C, kv_heads, head_dim]."""
    n, context = len(q), len(k)
    grouped = q.reshape(n, spec.kv_heads, -1, spec.head_dim).transpose(1, 2, 0, 3)  # [kv_heads, group, n, head_dim]
    scores = soft_cap(grouped @ k.transpose(1, 2, 0)[:, None] * np.float32(spec.scale), spec.softcap)
    scores[..., ~visible(context - n + np.arange(n), context, spec.window)] = -np.inf
    mass: F32 = softmax(scores).sum((1, 2))
    return mass


def attend_two(q: F32, far: F32, near_keys: F32, far_keys: F32, v: F32, spec: Attention) -> F32:
    """One token's attention over C keys, with one query for the near keys and one for the others.

    q, far [heads * head_dim]; near_keys, far_keys [C, kv_heads, head_dim], 0 where a key is of the other kind;
    v [C, kv_heads, value_dim]. Returns [heads * value_dim].
    """
    near, other = (x.reshape(spec.kv_heads, -1, spec.head_dim) for x in (q, far))  # [kv_heads, group, head_dim]
    scores = near @ near_keys.transpose(1, 2, 0) + other @ far_keys.transpose(1, 2, 0)
    weights = softmax(soft_cap(scores * np.float32(spec.scale), spec.softcap))
    out: F32 = (weights @ v.transpose(1, 0, 2)).reshape(-1)
    return out


def visible(queries: NDArray[np.intp], context: int, window: int) -> NDArray[np.bool_]:
    """[n, C] bool: which of the context's tokens the tokens with these indices see."""
    distance: NDArray[np.intp] = queries[:, None] - np.arange(context)
    return (distance >= 0) & (distance < (window or context))


def softmax(x: F32) -> F32:
    """Softmax over the last axis. At least one value is finite, because a token always sees itself."""
    e: F32 = np.exp(x - x.max(axis=-1, keepdims=True))
    e /= e.sum(axis=-1, keepdims=True)
    return e


def soft_cap(x: F32, cap: float) -> F32:
    """Gemma 2 (2408.00118): cap * tanh(x / cap); 0 is off."""
    return np.float32(cap) * np.tanh(x / np.float32(cap)) if cap > 0 else x


def silu(x: F32) -> F32:
    y: F32 = x / (1 + np.exp(-x))
    return y


def gelu_tanh(x: F32) -> F32:
    """The tanh approximation of GELU (1606.08415)."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
    y: F32 = np.float32(0.5) * x * (1 + np.tanh(inner))
    return y


ACTIVATIONS: dict[str, Callable[[F32], F32]] = {"silu": silu, "gelu_tanh": gelu_tanh}


class WeightsRead:
    """An `Ops` that computes nothing: it notes the weights that are read whole, in order. (`embed` reads rows.)"""

    def __init__(self) -> None:
        self.weights: dict[Weight, None] = {}

    def embed(self, table: Weight, scale: float = 1.0) -> None: ...

    def __getattr__(self, verb: str) -> Callable[..., None]:
        def note(*arguments: Any, **named: Any) -> None:
            self.weights |= {each: None for each in (*arguments, *named.values()) if isinstance(each, Weight)}

        return note


def footprint(model: Model, config: EngineConfig, cache: CacheConfig) -> dict[str, int]:
    """Weights as after the first step, which dequantises them."""
    ops, kept = WeightsRead(), 0
    model.forward(ops)
    for weight in ops.weights:
        kept += float_bytes(weight) if fits(weight, WEIGHT_MEMORY - kept) else 0
    pool = cache.num_blocks * block_bytes(model.attention, cache.block_size, cache.dtype)
    return {"weights": kept, "kv": pool, "scratch": 0}


def make(
    model: Model, config: EngineConfig, cache: CacheConfig, progress: Progress | None, beside: Backend | None
) -> Backend:
    return ReferenceBackend(model, cache)


DEVICE = Device(
    make=make,
    footprint=footprint,
    available_memory=lambda options: host.available_memory(),
    auto_pool=host.auto_pool,
    facts=host.facts,
    kv_dtypes=("f32", "bf16", "int8", "k8v4"),
    trees=True,
    evictions=("sink_recent", "snapkv"),
)
