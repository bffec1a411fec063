"""The number of threads: by default as many as the machine lets the process use, in every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from octavo import LLM, _native, config
from octavo.assembly.engine import assemble, engine_config
from octavo.backends.cpu.backend import CpuBackend
from octavo.backends.cpu.packing import panels
from octavo.bench import limits
from octavo.cli.plan import make
from octavo.config import CacheConfig
from octavo.models.registry import build_model
from octavo.sampling_params import SamplingParams
from octavo.server.model_pool import memory_needed
from octavo.server.settings import ModelSource
from octavo.types import Request
from octavo.weights.gguf import open_gguf
from tests.tiny import Tiny, write_tiny_gguf

CACHE = CacheConfig(num_blocks=8)


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the native pools made from here on."""
    made: list[int] = []
    native = _native.Pool

    def pool(threads: int) -> _native.Pool:
        made.append(threads)
        return native(threads)

    monkeypatch.setattr(_native, "Pool", pool)
    return made


@pytest.fixture
def quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that may use one CPU of a machine with three cores."""
    monkeypatch.setattr(config, "_cgroup_cpus", lambda: 1)
    monkeypatch.setattr(config.os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr(config, "_core", str)


def test_a_quota_holds_for_running_building_and_measuring(tmp_path: Path, pools: list[int], quota: None) -> None:
    model = build_model(open_gguf(write_tiny_gguf(tmp_path / "m.gguf")))
    assert CpuBackend(model, CACHE).threads == 1
    next(panels(model))
    limits.measure("portable", repeat=1)
    assert set(pools) == {1}


def test_a_quota_holds_for_planning(tmp_path: Path, quota: None) -> None:
    quantised = Tiny(type="Q8_0")  # each thread has its own activations
    path = str(write_tiny_gguf(tmp_path / "m.gguf", quantised))
    automatic, one, two = (make(path, {"max_model_len": 64, "threads": n})[0].scratch for n in (None, 1, 2))
    assert automatic == one != two


def test_too_many_threads_are_a_warning(
    tmp_path: Path, pools: list[int], quota: None, caplog: pytest.LogCaptureFixture
) -> None:
    """At most four threads per core are used. One line of warning says so, in every command."""
    path = str(write_tiny_gguf(tmp_path / "m.gguf"))
    settings = {"threads": 999, "max_model_len": 64, "num_kv_blocks": 8}
    drafting = {"method": "draft_model", "model": path}
    asked: list[Callable[[], object]] = [
        lambda: LLM(path, **settings, speculative_config=drafting).shutdown(),
        lambda: make(path, settings),
        lambda: limits.measure("portable", threads=999, repeat=1),
    ]
    for ask in asked:
        ask()
        (record,) = caplog.records
        assert record.getMessage() == "threads is 999: 4 are used, 4 for each core that this process may use"
        caplog.clear()
    memory_needed(
        ModelSource(("m",), path, settings)
    )  # the server and its engine both check, but only the engine warns
    assert not caplog.records and max(pools) == 4


@pytest.mark.parametrize(("wanted", "used"), [(None, 1), (1, 1), (4, 4), (5, 4)])
def test_usable_threads(wanted: int | None, used: int, quota: None) -> None:
    assert config.usable_threads(wanted) == used


def test_a_draft_model_runs_on_the_threads_of_the_main_one(tmp_path: Path, pools: list[int]) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    drafting = {"method": "draft_model", "model": str(path)}
    parts = assemble(path, engine_config(max_model_len=64, threads=2, speculative_config=drafting))
    assert pools == [2]
    seq, *_ = parts.engine.add(Request("r", [1, 2, 3], SamplingParams(temperature=0, max_tokens=20)))
    while parts.engine.has_work:
        parts.engine.step()
    assert seq.num_output_tokens == 20 and parts.engine.stats.accepted_tokens > 0
