"""The CUDA backend: a model's weights on the device, its forward pass as a list of launches, one blob a step."""

from __future__ import annotations

import copy

import numpy as np
import torch

from octavo.backends.base import Progress
from octavo.backends.cuda.attention import check_heads
from octavo.backends.cuda.launch import HEAD_ROWS, INTERPRETED, Launch
from octavo.backends.cuda.lost import watched
from octavo.backends.cuda.lower import Lowering, Op, Pass
from octavo.backends.cuda.pool import KvPool
from octavo.backends.cuda.step import Fields, Steps
from octavo.backends.cuda.values import fused
from octavo.backends.cuda.weights import Weights, check_rows
from octavo.backends.cuda.work import view
from octavo.backends.plan.nodes import Trace
from octavo.config import CacheConfig
from octavo.errors import ConfigError
from octavo.ir import Model
from octavo.kv.planner import blocks_for
from octavo.sampling import rules
from octavo.types import Batch, StepResult, Transfers


class CudaBackend:
    """Runs batches of up to `max_tokens` tokens of `max_seqs` sequences, none longer than `max_context` tokens.

    device: "cuda", or "cpu" where Triton interprets its kernels (TRITON_INTERPRET=1), to test without a GPU.
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
        capability: int | None = None,
        progress: Progress | None = None,
    ):
        check_rows(model)
        check_heads(model.attention, cache.dtype)
        if device == "cpu" and not INTERPRETED:
            raise ConfigError("device 'cpu' needs TRITON_INTERPRET=1 in the environment before Triton is imported")
        self.model = model
        self.device = torch.device(device)
        self.max_tokens = max_tokens
        self.max_context = max_context or model.max_context
        wgmma = hopper(self.device, capability)
        self.pool = KvPool(cache, model.attention, self.device, wgmma)
        views = dict.fromkeys(view(spec, cache.dtype, wgmma) for spec in model.attention)
        max_blocks = blocks_for(self.max_context, cache.block_size)
        self.steps = Steps(list(views), max_tokens, max_seqs, max_blocks, self.device)
        self.weights = Weights(self.device)
        trace = fused(model)
        self.weights.load(trace, progress)
        self._pass = self._lower(trace)

    def _lower(self, trace: Trace) -> Pass:
        rows = min(HEAD_ROWS, self.max_tokens)
        return Lowering(trace, self.weights, self.pool, self.steps, self.max_tokens, rows, self.max_context).run()

    def share(self, model: Model) -> CudaBackend:
        """A backend with separate buffers that shares everything else; see `Backend.share`."""
        other = copy.copy(self)
        other.model = model
        trace = fused(model)
        other.weights.load(trace)
        other._pass = other._lower(trace)
        return other

    def transfer(self, transfers: Transfers) -> None:
        with watched(self.probe):
            for launch in self.pool.launches(transfers):
                launch()

    def probe(self) -> None:
        """Raises if the device has failed."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def run(self, batch: Batch) -> StepResult:
        with watched(self.probe):
            return self._run(batch)

    def _run(self, batch: Batch) -> StepResult:
        tokens, rows = len(batch.token_ids), len(batch.logit_rows)
        self.steps.fill(batch, tokens, rows)
        fields = self.steps.fields(tokens, rows)
        launch(self._pass.trunk, fields)
        logits = np.empty((rows, self.model.vocab_size), np.float32)
        hidden = np.empty((rows, self.model.hidden_size), np.float32) if batch.want_hidden else None
        height = self._pass.logits.shape[0]
        for start in range(0, rows, height):
            part = fields.rows(slice(start, start + height))
            count = len(part.logit_rows)
            launch(self._pass.head, part)
            logits[start : start + count] = self._pass.logits[:count].cpu()
            if hidden is not None:
                launch(self._pass.make_hidden, part)
                hidden[start : start + count] = self._pass.hidden[:count].cpu()
        with np.errstate(all="ignore"):  # a NaN is reported by `StepResult.finite`
            result = rules.result(logits, batch)
        result.hidden = hidden
        return result

    def launches(self, tokens: int, rows: int) -> list[Launch]:
        """All of a step's, in order."""
        fields = self.steps.fields(tokens, rows)
        return [each for op in (*self._pass.trunk, *self._pass.head) for each in op(fields)]

    def memory(self) -> dict[str, int]:
        scratch = self._pass.scratch + self.steps.blob.nbytes
        return {"weights": self.weights.nbytes, "kv": self.pool.nbytes, "scratch": scratch}

    def close(self) -> None:
        del self._pass, self.pool, self.weights, self.steps


def launch(ops: list[Op], fields: Fields) -> None:
    for op in ops:
        for each in op(fields):
            each()


def hopper(device: torch.device, capability: int | None) -> bool:
    """Whether the GPU has wgmma, which only compute capability 9.0 has."""
    if capability is None and device.type == "cuda":
        capability = 10 * torch.cuda.get_device_capability(device)[0]
    return capability in (None, 90)
