"""Measures layer subsets for `octavo tune layers`: how often they predict the model's own text, and their cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from octavo.assembly.engine import Assembly
from octavo.backends.base import Backend
from octavo.bench.spec import cost_curve
from octavo.ir import Model
from octavo.sampling.arrays import greedy
from octavo.spec.layer_search import Judge, Layers
from octavo.types import I32, Batch


@dataclass(slots=True)
class Bench:
    """Measures subsets of the layers on texts. The engine must be idle, as the passes use its blocks.

    texts: prompt with its greedy output, and the length of the prompt.
    """

    parts: Assembly
    texts: list[tuple[list[int], int]]

    def judge(self) -> Judge:
        curve = cost_curve(self.parts)
        known = sorted(curve)
        return Judge(
            self.agreement,
            self.cost,
            lambda length: float(np.interp(length + 1, known, [curve[rows] for rows in known])),
        )

    @property
    def chunk(self) -> int:
        return min(self.parts.config.max_num_seqs, self.parts.config.max_num_batched_tokens)

    def agreement(self, layers: Layers) -> float:
        """Returns the share of output tokens that these layers also choose, given the true text before each.

        This pass computes all keys and values with the subset. Drafting uses the whole model's for settled tokens, so
        real agreement is slightly better.
        """
        backend = self._backend(layers)
        hits = total = 0
        for tokens, start in self.texts:
            chosen = self._choices(backend, tokens)
            hits += int((chosen[start - 1 : -1] == np.array(tokens[start:])).sum())
            total += len(tokens) - start
        return hits / total

    def cost(self, layers: Layers) -> float:
        """Returns the cost of a one-row pass over that of the whole model.

        One row is memory-bound, so this is the ratio of bytes read. The language-model head is always read.
        """
        return _bytes_read(self.parts.model, layers) / _bytes_read(self.parts.model, tuple(range(self.num_layers)))

    @property
    def num_layers(self) -> int:
        return self.parts.model.num_layers

    def _backend(self, layers: Layers) -> Backend:
        return self.parts.backend.share(self.parts.model.with_layers(layers))

    def _choices(self, backend: Backend, tokens: list[int]) -> I32:
        """Returns the greedy token after each token: [len(tokens)]."""
        parts = [self._run(backend, tokens, start) for start in range(0, len(tokens), self.chunk)]
        return np.concatenate(parts)

    def _run(self, backend: Backend, tokens: list[int], start: int) -> I32:
        """Returns the greedy tokens after tokens[start : start + chunk]. Uses blocks 0, 1, 2, ... of the cache."""
        stop = min(start + self.chunk, len(tokens))
        positions = np.arange(start, stop, dtype=np.int32)
        rows, blocks = stop - start, -(-stop // self.parts.cache_config.block_size)
        batch = Batch(
            token_ids=np.array(tokens[start:stop], np.int32),
            positions=positions,
            slot_mapping=positions.copy(),
            query_starts=np.array([0, rows], np.int32),
            context_lens=np.array([stop], np.int32),
            block_tables=np.arange(blocks, dtype=np.int32)[None],
            logit_rows=np.arange(rows, dtype=np.int32),
            targets=np.full(rows, -1, np.int32),
            sampling=greedy(rows),
        )
        return backend.run(batch).token_ids


def _bytes_read(model: Model, layers: Layers) -> int:
    head = "output.weight" if "output.weight" in model.weights else "token_embd.weight"
    kept = tuple(f"blk.{layer}." for layer in layers)
    return sum(w.data.nbytes for name, w in model.weights.items() if name == head or name.startswith(kept))
