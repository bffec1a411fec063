"""The end of a step on the device chooses and reports what `sampling/rules.py` does: the same tokens, the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from octavo.backends.cuda import tail
from octavo.backends.cuda.launch import RECORD
from octavo.backends.cuda.stream import Stream
from octavo.backends.cuda.tail import Tail
from octavo.sampling import rules
from octavo.types import F32, I32, Batch, SamplingArrays, StepResult
from tests.batches import Row, make_batch
from tests.cuda.where import DEVICE, GPU, on_device

NAN, INF = float("nan"), float("inf")
STREAM = Stream(DEVICE)


def arrays(rows: list[dict[str, Any]], vocab: int) -> SamplingArrays:
    """One row each of settings, greedy without edits by default. penalties, biases: of (token, value). mask: ids."""

    def column(name: str, default: Any, dtype: Any) -> np.ndarray:
        return np.array([row.get(name, default) for row in rows], dtype)

    def csr(name: str, dtype: Any) -> tuple[I32, I32, np.ndarray]:
        lists = [row.get(name, []) for row in rows]
        flat = [entry for entries in lists for entry in entries]
        starts = np.cumsum([0, *map(len, lists)]).astype(np.int32)
        return starts, np.array([t for t, _ in flat], np.int32), np.array([v for _, v in flat], dtype)

    masks = [rules.pack(np.array(row["mask"], np.int32), vocab) for row in rows if "mask" in row]
    mask_rows = np.cumsum(["mask" in row for row in rows]).astype(np.int32) - 1
    penalties, biases = csr("penalties", np.int32), csr("biases", np.float32)
    return SamplingArrays(
        column("temperature", 0, np.float32),
        column("top_k", 0, np.int32),
        column("top_p", 1, np.float32),
        column("min_p", 0, np.float32),
        column("typical_p", 1, np.float32),
        column("repetition", 1, np.float32),
        column("presence", 0, np.float32),
        column("frequency", 0, np.float32),
        column("seed", 0, np.uint64),
        column("position", 0, np.int64),
        *penalties,
        *biases,
        np.where(["mask" in row for row in rows], mask_rows, -1).astype(np.int32),
        np.stack(masks) if masks else np.zeros((0, 0), np.uint32),
        False,
    )


def run(logits: F32, batch: Batch, top: int = 0) -> StepResult:
    """Through buffers that hold other things before, in rounds of at most 4 rows."""
    count, vocab = logits.shape
    records = torch.full((count, RECORD), -7, dtype=torch.int32, device=DEVICE)
    tops = torch.full((count, 2, top), -7, dtype=torch.int32, device=DEVICE)
    parts = Tail(vocab, min(4, count), STREAM.device)
    wide = torch.full((min(4, count), vocab + 5), NAN, device=DEVICE)
    for first in range(0, count, 4):
        part = slice(first, min(first + 4, count))
        x, out = wide[:, :vocab][: part.stop - first], records[part]
        x.copy_(torch.from_numpy(logits[part]))
        parts.edited.fill_(NAN)
        STREAM.run(parts.greedy(out, x, on_device(batch.targets[part].copy())))
        rows = tail.choosing(batch)
        rows = rows[(rows >= first) & (rows < part.stop)]
        if len(rows):
            made = on_device(tail.choices(batch.sampling, rows, first))
            STREAM.run(parts.choose(out, x, made, len(rows)))
        STREAM.run(parts.logprobs(out, tops[part], x))
    found, tops = records.cpu().numpy(), tops.cpu()
    return StepResult(
        found[:, 0],
        found[:, 1] != 0,
        logprobs=found[:, 2].view(np.float32),
        ranks=found[:, 3],
        top_ids=tops[:, 0].numpy(),
        top_logprobs=tops[:, 1].numpy().view(np.float32),
    )


def batch_of(sampling: SamplingArrays, targets: I32 | None = None, top: int = 0) -> Batch:
    count = len(sampling.temperature)
    made = make_batch([Row([0])], sampling=sampling, num_logprobs=top)
    return changed(
        made,
        logit_rows=np.zeros(count, np.int32),
        targets=np.full(count, -1, np.int32) if targets is None else targets,
    )


def check(logits: F32, batch: Batch) -> None:
    top = min(batch.num_logprobs, logits.shape[1])
    found = run(logits, batch, top)
    with np.errstate(all="ignore"):
        expected = rules.result(logits, batch)
    assert (found.token_ids == expected.token_ids).all(), (found.token_ids, expected.token_ids)
    assert (found.finite == expected.finite).all()
    whole = rules.finite(logits)  # nobody reads the logprobs of others
    for name in ("logprobs", "ranks", "top_ids", "top_logprobs"):
        got, wanted = getattr(found, name)[whole], getattr(expected, name)[whole]
        if GPU and name.endswith("logprobs"):  # its exp and log are not numpy's
            assert np.allclose(got, wanted, atol=1e-5), (name, got, wanted)
        else:
            assert np.array_equal(got, wanted), (name, got, wanted)  # the sign of a zero is nobody's


def choice(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


@st.composite
def cases(draw: st.DrawFn) -> tuple[F32, Batch]:
    vocab = draw(choice(1, 5, 31, 33, 300, 600))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 4))):
        tokens = st.integers(0, vocab - 1)
        row: dict[str, Any] = {
            "temperature": draw(choice(0, 0.3, 0.7, 1, 1.5, 20)),
            "top_k": draw(choice(0, 0, 1, 2, 7, 50, vocab)),
            "top_p": draw(choice(1, 1, 0.95, 0.8, 0.5, 0.1, 1e-6)),
            "min_p": draw(choice(0, 0, 0, 0.05, 1)),
            "typical_p": draw(choice(1, 1, 0.9, 0.3)),
            "seed": draw(st.integers(0, 2**64 - 1)),
            "position": draw(choice(0, 1, 77, 1 << 20)),
        }
        if draw(st.booleans()):
            row |= {"repetition": draw(choice(1, 1.3, 0.5)), "frequency": draw(choice(0, 0.7, -0.3)), "presence": 0.4}
            seen = draw(st.lists(tokens, unique=True, max_size=9))
            row["penalties"] = [(token, draw(st.integers(0, 3))) for token in seen]
        if draw(st.booleans()):
            row["biases"] = draw(st.lists(st.tuples(tokens, choice(-INF, -3.0, 0.1, 2.5)), max_size=6))
        if draw(st.booleans()):
            row["mask"] = draw(st.lists(tokens, max_size=9))
        rows.append(row)
    logits = rng.standard_normal((len(rows), vocab)).astype(np.float32) * np.float32(draw(choice(0, 1, 3, 40)))
    if draw(st.booleans()):
        logits = np.round(logits * 2) / 2  # many ties, and zeros of both signs
    for _ in range(draw(st.integers(0, 3))):
        odd = draw(choice(NAN, INF, -INF, -INF, -0.0))
        logits[draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, vocab - 1))] = odd
    if draw(choice(False, False, True)):
        logits[-1] = draw(choice(NAN, -INF))
    targets = np.where(rng.random(len(rows)) < 0.2, rng.integers(0, vocab, len(rows)), -1).astype(np.int32)
    return logits, batch_of(arrays(rows, vocab), targets, draw(choice(0, 1, 5)))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_any_rows(case: tuple[F32, Batch]) -> None:
    check(*case)


@pytest.mark.parametrize("ties", [False, True])
def test_a_models_vocabulary(monkeypatch: pytest.MonkeyPatch, ties: bool) -> None:
    monkeypatch.setattr(tail, "BLOCK", 1 << 15)  # numpy takes as long for many values as for few
    vocab = 40_001
    options: list[dict[str, Any]] = [
        {"temperature": 1},
        {"temperature": 0.7, "top_p": 0.95},
        {"temperature": 1.5, "top_k": 50, "min_p": 0.02},
        {"temperature": 1, "typical_p": 0.9, "top_k": 1000},
    ]
    logits = (np.random.default_rng(5).standard_normal((4, vocab)) * 3).astype(np.float32)
    logits = np.round(logits * 4) / 4 if ties else logits
    check(logits, batch_of(arrays([{**each, "seed": seed} for seed, each in enumerate(options)], vocab), top=5))
