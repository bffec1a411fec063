"""Steps as graphs: the bits of the eager path, whatever lies in memory that a step should not read."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from octavo.backends.cuda import graphs
from octavo.backends.cuda.backend import CudaBackend
from octavo.backends.cuda.graphs import Shape, padded
from octavo.backends.cuda.stream import Stream, Upload
from octavo.config import CacheConfig
from octavo.models.registry import load_model
from octavo.types import Batch, StepResult
from tests.batches import Row, make_batch
from tests.cuda.late import Late, tensors
from tests.cuda.test_tail import arrays
from tests.tiny import Tiny, write_tiny_gguf

LIMITS: dict[str, Any] = {"max_tokens": 24, "max_seqs": 4, "max_context": 64, "device": "cpu"}
TINY = Tiny("qwen3", layers=1, hidden=32, heads=4, kv_heads=2, head_dim=8, ffn=48)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "m.gguf", TINY)


def batches(seed: int, count: int) -> list[Batch]:
    """Steps of three sequences: chunks of prompts, decoding, both; greedy, sampled or scored, with logprobs or not."""
    rng = random.Random(seed)
    lengths = [0, 0, 0]
    made: list[Batch] = []
    for _ in range(count):
        rows = []
        for seq in rng.sample(range(3), rng.randint(1, 3)):
            tokens = [rng.randrange(300) for _ in range(rng.choice([1, 1, 1, 2, 5, 8]))]
            tokens = tokens[: 48 - lengths[seq]] or tokens[:1]
            start = min(lengths[seq], 48 - len(tokens))
            rows.append(Row(tokens, start, table=[3 * seq, 3 * seq + 1, 3 * seq + 2], all_rows=rng.random() < 0.3))
            lengths[seq] = start + len(tokens)
        fields: dict[str, Any] = {}
        plain = make_batch(rows)
        count_rows = len(plain.logit_rows)
        if rng.random() < 0.5:
            settings = [{"temperature": rng.choice([0, 1]), "top_p": 0.9, "seed": i} for i in range(count_rows)]
            fields = {"sampling": arrays(settings, 320), "num_logprobs": rng.choice([-1, 2])}
            fields |= {"want_logits": rng.random() < 0.5, "want_hidden": rng.random() < 0.5}
            fields["targets"] = np.array([rng.choice([-1, -1, 7]) for _ in range(count_rows)], np.int32)
        made.append(make_batch(rows, **fields))
    return made


def same(found: StepResult, expected: StepResult) -> None:
    for name in StepResult.__struct_fields__:
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        assert a is None or (a.shape == b.shape and a.tobytes() == b.tobytes()), name


@pytest.mark.parametrize(("height", "steps"), [(256, 5), (3, 3)])
def test_graphs_are_the_eager_path_bit_for_bit(
    path: Path, monkeypatch: pytest.MonkeyPatch, height: int, steps: int
) -> None:
    """Before every step all buffers that steps write are poisoned, but for the KV pool and the blob.

    height: of the head: with 3 rows a step needs rounds."""
    monkeypatch.setattr("octavo.backends.cuda.backend.HEAD_ROWS", height)
    model, cache, stream = load_model(path), CacheConfig(12, 16, "f32"), Late()
    eager = CudaBackend(model, cache, graphs=False, **LIMITS)
    replayed = CudaBackend(model, cache, stream=stream, **LIMITS)
    constant = {each.data_ptr(): each.clone() for each in tensors(replayed.launches(24, 4))}
    kept = {replayed.pool.data.data_ptr(), replayed.steps.blob.data_ptr()}
    made = batches(1, steps)
    for batch in [*made, *made[::-1]]:
        same(replayed.run(batch), eager.run(batch))
        assert not stream.queue
        for each in tensors(stream.captured):
            written = each.data_ptr() not in constant or not torch.equal(each, constant[each.data_ptr()])
            if written and each.data_ptr() not in kept:
                each.fill_(float("nan") if each.is_floating_point() else -(1 << 20))
                constant.pop(each.data_ptr(), None)
    assert torch.equal(replayed.pool.data, eager.pool.data), "padding writes nothing"
    assert stream.replays >= steps


def test_shapes() -> None:
    assert padded(1, 1, 2048, 2112) == Shape(1, 1)
    assert padded(5, 5, 2048, 2112) == Shape(6, 6)
    assert padded(200, 1, 2048, 2112) == Shape(256, 1)
    assert padded(200, 130, 2048, 2112) == Shape(256, 256)
    assert padded(2000, 3, 2048, 2112) == Shape(2048, 8)
    assert padded(2048, 2100, 2048, 2112) == Shape(2048, 2112)
    assert padded(90, 0, 100, 104) == Shape(96, 0)
    assert padded(97, 104, 100, 104) == Shape(100, 104)
    for tokens in range(1, 101):
        for rows in range(105):
            shape = padded(tokens, rows, 100, 104)
            assert tokens <= shape.tokens <= 100 and rows <= shape.rows <= 104 and (rows > 0) == (shape.rows > 0)


class Graph:
    """What a fake torch.cuda makes of a capture: the launches in it."""

    recording: Graph | None = None

    def __init__(self) -> None:
        self.launches: list[Any] = []

    def replay(self) -> None:
        for launch in self.launches:
            launch()


class FakeCuda:
    CUDAGraph = Graph
    free = 10 << 20

    def __init__(self) -> None:
        self.pools: list[object] = []
        self.synchronized = 0

    def graph_pool_handle(self) -> object:
        self.pools.append(object())
        return self.pools[-1]

    def graph(self, graph: Graph, pool: object, capture_error_mode: str) -> FakeCuda:
        assert self.pools == [pool], "all graphs have one pool"
        assert capture_error_mode == "thread_local"
        self.graphed = graph
        return self

    def __enter__(self) -> None:
        Graph.recording = self.graphed

    def __exit__(self, *error: object) -> None:
        Graph.recording = None
        self.free -= 3 << 20

    def mem_get_info(self, device: object) -> tuple[int, int]:
        return self.free, 80 << 30


def test_capture(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Through `torch.cuda`: a shape's first step runs, then is captured without running; later ones are replayed."""

    class Call:
        def __init__(self) -> None:
            self.runs = 0

        def __call__(self) -> None:
            if Graph.recording:
                Graph.recording.launches.append(self)
            else:
                self.runs += 1

    stream, first, second = Stream(torch.device("cuda"), FakeCuda()), Call(), Call()
    made = graphs.Graphs(stream)
    asked: list[Shape] = []

    def ask(shape: Shape, calls: list[Any]) -> None:
        def steps() -> list[Any]:
            asked.append(shape)
            return calls

        made.run(shape, steps)

    with caplog.at_level(logging.INFO):
        ask(Shape(8, 1), [first, second])
        assert (first.runs, second.runs) == (1, 1)
        ask(Shape(8, 1), [first, second])
        assert (first.runs, second.runs) == (2, 2)
        ask(Shape(8, 8), [second])
        ask(Shape(8, 8), [second])
    assert (first.runs, second.runs) == (2, 4) and asked == [Shape(8, 1), Shape(8, 8)]
    assert "a graph of 2 launches for 8 tokens and 1 logit rows" in caplog.text and "3.1 MB" in caplog.text


def test_uploads_wait_for_the_copy_before_they_write_again() -> None:
    stream = Late()
    send, places = Upload(stream, 4), []
    got: list[Any] = []
    for i in range(9):
        places.append(send(np.full(3 + i, i, np.int32)))  # outgrows its memory meanwhile
        stream.queue.append(lambda place=places[-1]: got.append(place.clone()))
    stream.event().synchronize()
    assert [each.tolist() for each in got] == [[i] * (3 + i) for i in range(9)]
