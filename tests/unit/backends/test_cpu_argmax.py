"""Greedy choice inside the language-model head, where the logits are never stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from octavo import _native
from octavo.backends.cpu.backend import CpuBackend
from octavo.config import CacheConfig
from octavo.models.registry import build_model
from octavo.types import Batch, StepResult
from octavo.weights.gguf import open_gguf
from octavo.weights.gguf_writer import write_gguf
from tests.batches import Row, make_batch
from tests.quantize import quantize
from tests.tiny import Tiny, tiny_arrays, tiny_metadata

VOCAB = 317  # the last panel of 16 has 13 rows
TINY = Tiny(vocab=VOCAB, tied=False)


def backend(path: Path, isa: str = "auto", head: np.ndarray | None = None, tiny: Tiny = TINY) -> CpuBackend:
    """The tiny model, with another language-model head if one is given."""
    arrays = tiny_arrays(tiny) | ({} if head is None else {"output.weight": head})
    weights = {name: quantize(a, tiny.type if a.ndim > 1 else "F32", name) for name, a in arrays.items()}
    write_gguf(path, tiny_metadata(tiny), weights)
    cache = CacheConfig(num_blocks=32, block_size=16, dtype="f32")
    return CpuBackend(build_model(open_gguf(path)), cache, isa=isa, threads=2, max_tokens=128, max_seqs=4)


def batch(**fields: object) -> Batch:
    """70 logit rows: three rounds of the head."""
    tokens = np.random.default_rng(0).integers(0, VOCAB, 70).tolist()
    return make_batch([Row(tokens, all_rows=True)], **fields)


def both(made: CpuBackend) -> tuple[StepResult, StepResult]:
    """(the logits were stored, they were not)."""
    return made.run(batch(want_logits=True)), made.run(batch())


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("type", ["F32", "Q8_0"])
def test_the_largest_of_the_logits_nobody_sees(tmp_path: Path, isa: str, type: str) -> None:
    seen, unseen = both(backend(tmp_path / "m.gguf", isa, tiny=Tiny(vocab=VOCAB, tied=False, type=type)))
    assert seen.logits is not None and seen.logits.shape == (70, VOCAB)
    assert unseen.logits is None and len(set(unseen.token_ids.tolist())) > 20
    assert (unseen.token_ids == seen.logits.argmax(-1)).all() and (unseen.token_ids == seen.token_ids).all()
    assert unseen.finite.all()


def test_the_first_of_equal_ones(tmp_path: Path) -> None:
    head = np.repeat(tiny_arrays(TINY)["output.weight"][:40], 8, axis=0)[:VOCAB]  # each row eight times, over panels
    seen, unseen = both(backend(tmp_path / "m.gguf", head=head[::-1].copy()))
    assert seen.logits is not None
    assert (unseen.token_ids == seen.logits.argmax(-1)).all()


def test_all_equal(tmp_path: Path) -> None:
    seen, unseen = both(backend(tmp_path / "m.gguf", head=np.zeros((VOCAB, TINY.hidden), np.float32)))
    assert (seen.token_ids == 0).all() and (unseen.token_ids == 0).all() and unseen.finite.all()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_broken_row_of_the_head_shows(tmp_path: Path, poison: float) -> None:
    head = tiny_arrays(TINY)["output.weight"].copy()
    head[VOCAB - 1] = poison
    seen, unseen = both(backend(tmp_path / "m.gguf", head=head))
    assert (seen.finite == unseen.finite).all() and (seen.token_ids == unseen.token_ids).all()
    assert not unseen.finite.all()


def test_a_target_is_given_back(tmp_path: Path) -> None:
    targets = np.full(70, -1, np.int32)
    targets[5] = 7
    made = backend(tmp_path / "m.gguf")
    chosen, plain = made.run(batch(targets=targets)).token_ids, made.run(batch()).token_ids
    assert chosen[5] == 7 and (np.delete(chosen, 5) == np.delete(plain, 5)).all()


def test_a_profile_names_every_operation(tmp_path: Path) -> None:
    made = backend(tmp_path / "m.gguf")
    made.run(batch())
    assert made.profiled() == {"prefill": {}, "decode": {}}
    made.profile(True)
    made.run(batch())
    prefill = made.profiled()["prefill"]
    assert f"matmul {TINY.hidden} -> {VOCAB} F32" in prefill and "attention" in prefill and "sample" in prefill
    assert all(seconds >= 0 for seconds in prefill.values()) and sum(prefill.values()) > 0
    assert list(prefill.values()) == sorted(prefill.values(), reverse=True)
    made.run(make_batch([Row([1], start=70)]))
    assert made.profiled()["decode"].keys() == prefill.keys()
    made.profile(False)
    assert made.profiled() == {"prefill": {}, "decode": {}}
