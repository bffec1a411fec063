"""What a contributor adds for a device (CONTRIBUTING.md): a file, here toy.py, and its line in `DEVICES`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo.assembly.engine import assemble, engine_config
from octavo.backends.registry import DEVICES
from octavo.cli.main import main
from octavo.config import EngineConfig
from octavo.errors import CapacityError, ConfigError
from octavo.kv.planner import block_bytes
from octavo.server.model_pool import memory_needed
from octavo.server.settings import ModelSource
from tests.tiny import Tiny, write_tiny_gguf
from tests.unit.backends import toy
from tests.unit.backends.toy import LANE_BYTES, ToyBackend

TOY: dict[str, Any] = {"backend": "toy", "block_size": 16}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEVICES, "toy", "tests.unit.backends.toy")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(context=4096))


# ---------------------------------------------------------------- a new device


def test_a_file_and_a_line_make_a_device(path: Path) -> None:
    with LLM(path, lanes=2, max_num_batched_tokens=50, **TOY) as llm:
        parts = llm.parts
        assert isinstance(parts.backend, ToyBackend) and parts.backend.lanes == 2
        assert parts.config.backend_options == {"lanes": 2, "share": 0.5}
        output = llm.generate("the sun", SamplingParams(max_tokens=5, ignore_eos=True), use_tqdm=False)[0]
        assert len(output.outputs[0].token_ids) == 5


def test_the_planner_asks_the_device(path: Path) -> None:
    """For its storage type, its memory, its rule for the pool and its preferred step size."""
    with LLM(path, lanes=3, max_num_batched_tokens=50, **TOY) as llm:
        resolved, cache = llm.parts.config, llm.parts.cache_config
        assert cache.dtype == resolved.kv_cache_dtype == "int8" and resolved.max_num_batched_tokens == 16
        block = block_bytes(llm.parts.model.attention, 16, "int8")
        assert cache.num_blocks == 3 * LANE_BYTES // block
        most = (3 * LANE_BYTES // block) * 16
        assert resolved.max_model_len == min(4096, most)
    source = ModelSource(("m",), str(path), {"lanes": 1, **TOY})
    assert memory_needed(source) - path.stat().st_size >= LANE_BYTES - block


def test_a_step_holds_the_longest_prompt_where_it_must(path: Path) -> None:
    for length, budget in ((60, 64), (100, 100), (10, 4)):
        given = engine_config(**TOY, enable_chunked_prefill=False, max_model_len=length, max_num_batched_tokens=12)
        parts = assemble(path, given)
        assert parts.config.max_num_batched_tokens == budget
        parts.close()


def test_an_auto_context_shrinks_to_the_device(path: Path) -> None:
    with pytest.raises(CapacityError, match=r"what backend toy can spare for the KV cache is 1\.0 MiB, but"):
        LLM(path, max_model_len=4096, block_size=256, backend="toy", kv_cache_dtype="f32")


def test_a_device_plans(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(path), "--backend", "toy", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["backend"], facts["weights"], facts["scratch"], facts["lanes"]) == ("toy", 7, 1, 1)
    assert facts["kv_pool"] == 16 * facts["num_blocks"] * 16 and facts["available"] == LANE_BYTES
    assert main(["plan", str(path), "--backend", "toy"]) == 0
    assert "threads" not in capsys.readouterr().out


def test_without_trees_a_tree_is_its_likeliest_chain(path: Path) -> None:
    drafting = {"method": "tree", "num_speculative_tokens": 4}
    with LLM(path, speculative_config=drafting, **TOY) as llm:
        params = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True)
        assert len(llm.generate("the sun", params, use_tqdm=False)[0].outputs[0].token_ids) == 30


def test_a_draft_model_s_backend_knows_the_main_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They never run at the same time, so they can share what a device has only once."""
    made: list[ToyBackend] = []
    monkeypatch.setattr(toy, "ToyBackend", lambda *given: made.append(ToyBackend(*given)) or made[-1])
    LLM(path, speculative_config={"method": "draft_model", "model": str(path)}, **TOY).shutdown()
    main_one, draft = made
    assert main_one.beside is None and draft.beside is main_one


# ---------------------------------------------------------------- options


def test_options_are_the_device_s_own() -> None:
    assert engine_config(backend="toy").backend_options == {"lanes": 1, "share": None}
    assert engine_config(backend_options={"threads": 2}, isa="avx2").backend_options == {"threads": 2, "isa": "avx2"}
    # Options of another backend are known, checked and left out, so that one set of settings serves every backend.
    assert engine_config(lanes=2, threads=1).backend_options == {"threads": 1, "isa": "auto"}
    assert engine_config(backend="null", threads=1).backend_options == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "tpu"}, r"backend must be one of cpu, reference, null, cuda, toy, auto; got 'tpu'"),
        ({"backend": "toy", "lanes": 9}, "lanes must be an integer from 1 to 8; got 9"),
        ({"lanes": 9}, "lanes must be an integer"),
        ({"threads": 0}, "threads must be an integer from 1 to 1024; got 0"),
        ({"threads": True}, "threads must be"),
        ({"threads": 100_000, "backend": "reference"}, "threads must be"),
        ({"isa": "sse9"}, "isa must be one of auto, amx"),
        ({"isa": ["avx2"]}, "isa must be"),
        ({"thread": 1}, "unknown setting 'thread': did you mean threads?"),
        ({"backend_options": {"lane": 1}}, "unknown setting 'lane': did you mean lanes?"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine_config(**settings)


def test_a_storage_type_that_the_device_lacks(path: Path) -> None:
    with pytest.raises(ConfigError, match="kv_cache_dtype must be one of auto, int8, f32; got 'bf16'"):
        LLM(path, kv_cache_dtype="bf16", **TOY)


def test_a_config_without_options_is_complete(path: Path) -> None:
    parts = assemble(path, EngineConfig(max_model_len=64, num_kv_blocks=8))
    assert parts.config.backend_options["isa"] == "auto" and parts.config.backend_options["threads"] >= 1
    parts.close()
