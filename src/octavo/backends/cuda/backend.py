"""The CUDA backend: a model's weights on the device, its forward pass as a list of launches, one blob a step."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from octavo.backends.base import Progress
from octavo.backends.cuda import tail
from octavo.backends.cuda.attention import check_heads
from octavo.backends.cuda.graphs import Graphs, Shape, padded
from octavo.backends.cuda.launch import HEAD_ROWS, INTERPRETED, RECORD, Launch
from octavo.backends.cuda.lost import watched
from octavo.backends.cuda.lower import Lowering, Op, Pass
from octavo.backends.cuda.parallel import Ranks
from octavo.backends.cuda.pool import KvPool
from octavo.backends.cuda.step import Fields, Steps
from octavo.backends.cuda.stream import Ring, Stream, Upload
from octavo.backends.cuda.tail import Tail
from octavo.backends.cuda.ticket import Ticket
from octavo.backends.cuda.values import fused
from octavo.backends.cuda.warm import warm_up
from octavo.backends.cuda.weights import Weights, check_rows
from octavo.backends.cuda.work import view
from octavo.backends.plan.nodes import Trace
from octavo.config import CacheConfig
from octavo.errors import ConfigError
from octavo.ir import Model
from octavo.kv.planner import blocks_for
from octavo.types import I32, Batch, Compaction, StepResult, Transfers


class CudaBackend:
    """Runs batches of up to `max_tokens` tokens of `max_seqs` sequences, none longer than `max_context` tokens.

    device: "cuda", or "cpu" where Triton interprets its kernels (TRITON_INTERPRET=1), to test without a GPU.
    graphs: whether steps run as CUDA graphs. stream: of the device; tests give their own.
    ranks: those of tensor parallelism; then the model is this rank's share, and all ranks must run the same batches.
    capability: of the GPU to compile for, such as 80 or 90; None asks it.
    """

    def __init__(
        self,
        model: Model,
        cache: CacheConfig,
        *,
        device: str = "cuda",
        max_tokens: int = 512,
        max_seqs: int = 64,
        max_context: int | None = None,
        graphs: bool = True,
        stream: Stream | None = None,
        capability: int | None = None,
        ranks: Ranks | None = None,
        progress: Progress | None = None,
    ):
        check_rows(model)
        check_heads(model.attention, cache.dtype)
        if device == "cpu" and not INTERPRETED:
            raise ConfigError("device 'cpu' needs TRITON_INTERPRET=1 in the environment before Triton is imported")
        self.model, self.ranks = model, ranks
        self.device = torch.device(device)
        self.stream = stream or Stream(self.device)
        self.max_tokens = max_tokens
        self.max_context = max_context or model.max_context
        wgmma = hopper(self.device, capability)
        self.pool = KvPool(cache, model.attention, self.stream, wgmma)
        views = dict.fromkeys(view(spec, cache.dtype, wgmma) for spec in model.attention)
        max_blocks = blocks_for(self.max_context, cache.block_size)
        self.steps = Steps(list(views), max_tokens, max_seqs, max_blocks, self.stream)
        self.tail = Tail(model.vocab_size, min(HEAD_ROWS, max_tokens), self.device)
        self.weights = Weights(self.device)
        self._choices, self._ring = Upload(self.stream), Ring(self.stream)
        self._graphs = Graphs(self.stream) if graphs and self.stream.captures else None
        trace = fused(model)
        self.weights.load(trace, progress)
        self._pass = self._lower(trace)
        if self.device.type == "cuda":
            warm_up(self.run, min(max_tokens, self.max_context), cache.block_size)

    def _lower(self, trace: Trace) -> Pass:
        rows = min(HEAD_ROWS, self.max_tokens)
        sizes = self.max_tokens, rows, self.max_context
        return Lowering(trace, self.weights, self.pool, self.steps, *sizes, self.ranks).run()

    def share(self, model: Model) -> CudaBackend:
        """A backend with separate buffers that shares everything else; see `Backend.share`."""
        other = copy.copy(self)
        other.model = model
        trace = fused(model)
        other.weights.load(trace)
        other._pass = other._lower(trace)
        other._graphs = self._graphs and Graphs(self.stream)
        return other

    def transfer(self, transfers: Transfers) -> None:
        with watched(self.probe):
            self.stream.run(self.pool.launches(transfers))

    def probe(self) -> None:
        """Raises if the device has failed."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def compact(self, compaction: Compaction) -> None:
        raise NotImplementedError("kv_eviction is refused on this backend: see Device.evictions")

    def run(self, batch: Batch) -> StepResult:
        return self.submit(batch).result()

    def submit(self, batch: Batch) -> Ticket:
        with watched(self.probe):
            return self._submit(batch)

    def _submit(self, batch: Batch) -> Ticket:
        tokens, rows = len(batch.token_ids), len(batch.logit_rows)
        choosing = tail.choosing(batch)
        more = len(choosing) > 0 or batch.num_logprobs >= 0 or batch.want_logits or batch.want_hidden
        if self.stream.profile is not None:
            self.stream.profile.phase = "decode" if tokens == len(batch.context_lens) else "prefill"
        shape = self._shape(tokens, rows)
        if more and shape.rows > len(self._pass.logits):  # a round's logits would be overwritten by the next one's
            shape = self._shape(tokens, 0)
        filled = shape.tokens, max(rows, shape.rows)
        self.steps.fill(batch, *filled)
        if self._captured:
            self._captured.run(shape, lambda: self._step(self.steps.fields(*filled), shape.rows))
        else:
            self.stream.run(self._step(self.steps.fields(*filled), shape.rows))
        extra = self._finish(batch, self.steps.fields(*filled), choosing, head=not shape.rows) if more else {}
        records = self._ring.take(rows * RECORD)
        self.stream.copy(records, self.steps.out[:rows].reshape(-1))
        event = self.stream.event()
        self._ring.give(records, event)
        return Ticket(records, event, extra, self.probe)

    @property
    def _captured(self) -> Graphs | None:
        """A profile is of single kernels."""
        return self._graphs if self.stream.profile is None else None

    def profile(self, on: bool) -> None:
        """See `ProfiledBackend`."""
        self.stream.profile = None
        if on:
            self.stream.start_profile()

    def profiled(self) -> dict[str, dict[str, float]]:
        return {} if self.stream.profile is None else self.stream.profile.seconds()

    def _shape(self, tokens: int, rows: int) -> Shape:
        return padded(tokens, rows, self.max_tokens, self.steps.max_rows) if self._captured else Shape(tokens, rows)

    def _step(self, fields: Fields, rows: int) -> list[Launch]:
        """All of a step that a graph may hold: the pass, and greedy choices for its first rows."""
        parts = self._rounds(fields.rows(slice(rows))) if rows else ()
        return [*launches(self._pass.trunk, fields), *(each for part in parts for each in self._head(part))]

    def _rounds(self, fields: Fields) -> Iterator[Fields]:
        """As many logit rows at once as the head has room for."""
        height = len(self._pass.logits)
        for start in range(0, len(fields.logit_rows), height):
            yield fields.rows(slice(start, start + height))

    def _head(self, part: Fields) -> list[Launch]:
        return launches(self._pass.head, part) + self.tail.greedy(part.out, self._pass.logits, part.targets)

    def _finish(self, batch: Batch, fields: Fields, choosing: I32, head: bool) -> dict[str, list[Tensor]]:
        """Choices that are not greedy, logprobs, logits and hidden states: what of these crosses to the host.

        head: it has not run yet."""
        extra: dict[str, list[Tensor]] = defaultdict(list)
        rows, run = len(batch.logit_rows), self.stream.run
        top = min(batch.num_logprobs, self.model.vocab_size)
        start = 0
        for part in self._rounds(fields.rows(slice(rows))):
            count, logits = len(part.out), self._pass.logits
            if head:
                run(self._head(part))
            chosen = choosing[(choosing >= start) & (choosing < start + count)]
            if len(chosen):
                made = self._choices(tail.choices(batch.sampling, chosen, start))
                run(self.tail.choose(part.out, logits, made, len(chosen)))
            if top >= 0:
                tops = torch.empty(count, 2, top, dtype=torch.int32, device=self.device)
                run(self.tail.logprobs(part.out, tops, logits))
                extra["tops"].append(self._fetch(tops))
            if batch.want_logits:
                extra["logits"].append(self._fetch(logits[:count]))
            if batch.want_hidden:
                run(launches(self._pass.make_hidden, part))
                extra["hidden"].append(self._fetch(self._pass.hidden[:count]))
            start += count
        return extra

    def _fetch(self, source: Tensor) -> Tensor:
        """Where it will be on the host, once the work so far has run."""
        to = self.stream.host(*source.shape, dtype=source.dtype)
        self.stream.copy(to, source)
        return to

    def launches(self, tokens: int, rows: int) -> list[Launch]:
        """All that a step may have, in order."""
        fields = self.steps.fields(tokens, rows)
        logits, choices = self._pass.logits, self._choices.data
        tops = torch.empty(rows, 2, 5, dtype=torch.int32, device=self.device)
        chosen = self.tail.choose(fields.out, logits, choices, rows)
        return [*self._step(fields, rows), *chosen, *self.tail.logprobs(fields.out, tops, logits)]

    def memory(self) -> dict[str, int]:
        scratch = self._pass.scratch + self.steps.nbytes + self.tail.nbytes
        return {"weights": self.weights.nbytes, "kv": self.pool.nbytes, "scratch": scratch}

    def close(self) -> None:
        del self._pass, self._graphs, self.pool, self.weights, self.steps, self.tail


def launches(ops: list[Op], fields: Fields) -> list[Launch]:
    return [each for op in ops for each in op(fields)]


def hopper(device: torch.device, capability: int | None) -> bool:
    """Whether the GPU has wgmma, which only compute capability 9.0 has."""
    if capability is None and device.type == "cuda":
        capability = 10 * torch.cuda.get_device_capability(device)[0]
    return capability in (None, 90)
