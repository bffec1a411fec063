"""The machine's limits, and speeds as fractions of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from octavo import _native
from octavo.bench import limits as module
from octavo.bench.limits import Limits, Loop, Read, current, from_json, measure, save, saved, to_json
from octavo.bench.roofline import Point, roofline
from octavo.bench.work import Work, fractions, points, work_of
from octavo.cli.main import main
from octavo.errors import ConfigError
from octavo.ir import Attention
from octavo.models.registry import load_model
from tests.tiny import Tiny, write_tiny_gguf

MADE_UP = Limits(
    cpu="Example",
    isa="avx2",
    threads=2,
    buffer_bytes=1 << 28,
    loops=(Loop("int8", "vpdpbusd", {1: 500.0, 2: 1000.0}), Loop("f32", "vfmadd", {1: 100.0, 2: 200.0})),
    reads=(Read(1, 1, 20.0), Read(2, 1, 30.0), Read(2, 4, 40.0)),
)


@pytest.mark.parametrize("isa", _native.isas())
def test_every_loop_of_every_instruction_set_runs(isa: str) -> None:
    pool = _native.Pool(1)
    loops = _native.limit_loops(isa)
    assert {"int8", "f32"} <= {kind for kind, _ in loops}
    for _, instruction in loops:
        assert 1e7 < _native.ops_per_second(isa, instruction, pool, 1) < 1e14
    with pytest.raises(ValueError, match="no loop"):
        _native.ops_per_second(isa, "nop", pool, 1)


def test_vector_instructions_beat_plain_code() -> None:
    """A slower loop would not use the instruction it names: scalar dot products are far below vector speed."""
    if (best := _native.isas()[0]) == "portable":
        pytest.skip("needs a processor with AVX2")
    pool = _native.Pool(1)

    def int8(isa: str) -> float:
        instruction = next(name for kind, name in _native.limit_loops(isa) if kind == "int8")
        return float(_native.ops_per_second(isa, instruction, pool, 3))

    assert int8(best) > 3 * int8("portable")


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_memory_is_read_at_a_speed_that_is_possible(streams: int) -> None:
    pool = _native.Pool(2)
    buffer = _native.ReadBuffer(pool, 1 << 25)
    assert buffer.bytes == 1 << 25
    for isa in _native.isas():
        assert 1e8 < buffer.bytes_per_second(isa, pool, streams, 2) < 1e13


def test_measuring_has_figures_for_one_thread_and_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "buffer_bytes", lambda: 1 << 24)
    found = measure(threads=2, repeat=1)
    assert found.isa == _native.isas()[0] and found.cpu and found.buffer_bytes == 1 << 24
    assert all(loop.gops.keys() == {1, 2} for loop in found.loops)
    assert {(read.threads, read.streams) for read in found.reads} == {(n, s) for n in (1, 2) for s in (1, 2, 4, 8)}
    assert found.peak("int8") > found.peak("f32") / 8 and found.bandwidth > 1e8
    with pytest.raises(ConfigError, match="isa"):
        measure("mmx")


def test_limits_are_kept_only_when_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path))
    here = replace(MADE_UP, cpu=module.cpu_name())
    monkeypatch.setattr(module, "measure_apart", lambda isa, threads: replace(here, threads=threads))
    assert saved("avx2", 2) is None and current("avx2", 2) == here
    assert not list(tmp_path.iterdir())
    save(here)
    save(replace(here, threads=1))
    assert saved("avx2", 2) == here and saved("avx2", 1) == replace(here, threads=1)
    assert saved("portable", 2) is None
    monkeypatch.setattr(module, "measure_apart", lambda isa, threads: pytest.fail("they are kept"))
    assert current("avx2", 2) == here
    assert from_json(json.loads(json.dumps(to_json(here)))) == here


@pytest.mark.parametrize("text", ["", "{", "[]", '{"KEY": {}}', '{"KEY": {"loops": 3}}'])
def test_a_file_that_is_spoiled_is_measured_anew(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path))
    key = f"{module.cpu_name()}, avx2, 2 threads"
    (tmp_path / "limits.json").write_text(text.replace("KEY", key))
    assert saved("avx2", 2) is None


def test_measuring_apart_gives_the_same_kind_of_answer() -> None:
    found = module.measure_apart(_native.isas()[0], 1)
    assert found.threads == 1 and found.bandwidth > 1e8 and found.peak("int8") > 1e8


# ---------------------------------------------------------------- fractions

LAYER = Attention(heads=4, kv_heads=2, head_dim=8, scale=1.0)
WORK = Work(Counter({"int8": 1000}), Counter({"int8": 500}), 900, (LAYER, replace(LAYER, window=3)), "bf16")


def test_operations_of_a_prompt() -> None:
    # Five tokens see 1 + 2 + 3 + 4 + 5 positions, and 1 + 2 + 3 + 3 + 3 in the layer with a window.
    assert WORK.prefill(2, 5) == {"int8": 2 * (2 * 5 * 1000 + 2 * 500 + 4 * 4 * 8 * (15 + 12))}


def test_operations_and_bytes_of_a_step() -> None:
    assert WORK.decode(3, 10) == {"int8": 3 * (2 * 1500 + 4 * 4 * 8 * (10 + 3))}
    assert WORK.decode_bytes(3, 10) == 900 + 3 * (10 + 3) * 2 * 2 * 8 * 2  # K and V, two heads of eight, two bytes


def test_a_prefill_at_the_peak_and_a_decode_at_the_bandwidth_are_one() -> None:
    work = Work(Counter({"int8": 10**9}), Counter(), 10**9, (), "bf16")
    row = {"batch": 1, "prompt_tokens": 500, "gen_tokens": 64, "prefill_tok_s": 500.0, "decode_tok_s": 40.0}
    found = fractions(row, work, MADE_UP)
    assert found == {"ops_fraction": 1.0, "bandwidth_fraction": 1.0, "decode_ops_fraction": 0.08}
    dense = replace(work, trunk=Counter({"f32": 10**9}))  # bound by another instruction
    assert fractions(row, dense, MADE_UP)["ops_fraction"] == 5.0
    prefill, decode = points(row, work)
    assert prefill["gops"] == 1000.0 and prefill["intensity"] == 1000.0
    assert decode["gops"] == 80.0 and decode["intensity"] == 2.0
    untimed = row | {"decode_tok_s": None}  # the machine was too busy to tell
    assert fractions(untimed, work, MADE_UP)["bandwidth_fraction"] == 0.0 and points(untimed, work) == [prefill]


def test_the_work_of_a_model_is_that_of_its_matrices(tmp_path: Path) -> None:
    tiny = Tiny(type="Q8_0", tied=True, layers=2)
    model = load_model(write_tiny_gguf(tmp_path / "m.gguf", tiny))
    work = work_of(model, "bf16")
    matrices = {name: weight.shape for name, weight in model.weights.items() if len(weight.shape) == 2}
    head = tiny.vocab * tiny.hidden
    assert work.head == {"int8": head}
    assert work.trunk == {"int8": sum(rows * columns for rows, columns in matrices.values()) - head}
    file = sum(model.weights[name].data.nbytes for name in matrices)
    assert file <= work.weight_bytes < 1.2 * file
    dense = work_of(load_model(write_tiny_gguf(tmp_path / "f.gguf", Tiny(type="F32"))), "bf16")
    assert dense.trunk.keys() == {"f32"}


# ---------------------------------------------------------------- the command


def test_bench_reports_fractions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_tiny_gguf(tmp_path / "m.gguf", Tiny(context=1024))
    shape = ["--batch", "1,2", "--prompt-tokens", "16", "--gen-tokens", "64", "--repeat", "2", "--threads", "1"]
    assert main(["bench", str(model), *shape, "--json"]) == 0
    head, *rows = map(json.loads, capsys.readouterr().out.splitlines())
    assert head["int8_gops"] > 0.1 and head["bandwidth_gbs"] > 0.1
    for row in rows:
        assert row["ops_fraction"] > 0 and row["bandwidth_fraction"] > 0 and row["decode_ops_fraction"] > 0
    assert main(["bench", "--model", str(model), *shape, "--json", "--no-limits"]) == 0
    assert "fraction" not in capsys.readouterr().out


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path))
    monkeypatch.setattr(module, "buffer_bytes", lambda: 1 << 24)
    plot = tmp_path / "roofline.svg"
    assert main(["bench", "limits", "--threads", "2", "--json", "--save", "--plot", str(plot)]) == 0
    found = from_json(json.loads(capsys.readouterr().out))
    assert saved(found.isa, 2) == found
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")
    assert main(["bench", "limits", "--isa", "portable", "--threads", "1"]) == 0
    text = capsys.readouterr().out
    assert "plain C++" in text and "memory read" in text
    assert main(["bench", "limits", "--isa", "mmx"]) == 2


def test_a_roofline_is_drawn_where_its_numbers_say() -> None:
    at_peak, at_memory = Point("a <b>", 100.0, 1000.0), Point("m", 1.0, 40.0)
    drawing = ElementTree.fromstring(roofline(MADE_UP, [at_peak, at_memory]))
    found: dict[str, list[Any]] = {}
    for element in drawing:
        found.setdefault(element.tag.rpartition("}")[2], []).append(element)
    high, low = found["circle"]
    roofs = [line for line in found["line"] if line.get("stroke-width") == "2"]
    flat = next(line for line in roofs if line.get("stroke") == "#3367d6")
    assert flat.get("y1") == high.get("cy")  # on the int8 roof
    slope = next(line for line in roofs if line.get("stroke") == "#202124")
    x1, y1, x2, y2 = (float(slope.get(key)) for key in ("x1", "y1", "x2", "y2"))
    x, y = float(low.get("cx")), float(low.get("cy"))
    assert y == pytest.approx(y1 + (y2 - y1) * (x - x1) / (x2 - x1), abs=0.2)  # on the slope of the memory
