"""The plan against the memory that is really allocated."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo.assembly.engine import assemble, engine_config
from octavo.bench.usage import peak_rss
from octavo.cli.main import main
from octavo.cli.options import ENGINE
from octavo.cli.plan import make
from octavo.errors import CapacityError
from tests.models import model_path
from tests.tiny import FAMILIES, Tiny, write_tiny_gguf

SETTINGS: list[dict[str, Any]] = [
    {"max_model_len": 256},
    {"max_model_len": 100, "kv_cache_dtype": "int8", "block_size": 32, "max_num_seqs": 3},
    {"max_model_len": 512, "kv_cache_dtype": "f32", "num_kv_blocks": 40, "max_num_batched_tokens": 64},
    {"max_model_len": 512, "enable_chunked_prefill": False, "max_num_batched_tokens": 64},
]


def check(path: Path, settings: dict[str, Any]) -> None:
    plan, config, cache = make(str(path), dict(ENGINE.defaults) | settings)
    parts = assemble(path, engine_config(**settings))
    assert parts.backend.memory() == {"weights": plan.weights, "kv": plan.kv_pool, "scratch": plan.scratch}
    assert plan.total == sum(parts.backend.memory().values())
    assert (parts.config.max_model_len, parts.cache_config.dtype) == (config.max_model_len, cache.dtype)
    parts.close()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_prediction_is_what_is_allocated(family: str, settings: dict[str, Any], tmp_path: Path):
    check(write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(family)), settings)


@pytest.mark.parametrize("type", ["Q4_0", "Q6_K", "F16"])
def test_packed_sizes_of_other_encodings(type: str, tmp_path: Path):
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(hidden=256, ffn=256, heads=4, head_dim=64, type=type))
    check(path, {"max_model_len": 128})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backend", ["reference", "null"])
def test_other_backends_predict_too(family: str, backend: str, tmp_path: Path):
    """The reference backend dequantises the weights that a first step needs: of an untied embedding only some rows."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(family, tied=family == "gemma3"))
    settings = {"backend": backend, "max_model_len": 64, "num_kv_blocks": 8}
    plan, _, _ = make(str(path), dict(ENGINE.defaults) | settings)
    with LLM(path, **settings) as llm:
        llm.generate("the sun", SamplingParams(max_tokens=1), use_tqdm=False)
        assert llm.parts.backend.memory() == {"weights": plan.weights, "kv": plan.kv_pool, "scratch": plan.scratch}


def test_the_prediction_holds_for_a_real_model():
    check(model_path("smollm2-135m"), {"max_model_len": 1024, "kv_cache_memory": 64 << 20})


def test_a_plan_costs_no_memory():
    """It also judges models that do not fit, so it must not allocate the memory that it computes."""
    path, before = model_path("smollm2-135m"), peak_rss()
    plan, _, _ = make(str(path), dict(ENGINE.defaults) | {"num_kv_blocks": 1 << 20})
    assert plan.total > 20 << 30 and peak_rss() - before < 80 << 20


@pytest.mark.parametrize(
    ("more", "change"),
    [
        (["--memory", "100K"], "choose a smaller model or quantisation"),
        (["--memory", "500K"], "choose a smaller model or quantisation"),
        (["--num-kv-blocks", "4000", "--memory", "10M"], "lower --max-model-len or --kv-cache-dtype"),
    ],
)
def test_it_says_when_it_does_not_fit(
    more: list[str], change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a table, also where nothing at all would fit: a plan is asked for before anything is bought."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny())
    assert main(["plan", str(path), *more]) == 0
    out = capsys.readouterr().out
    *_, verdict = out.splitlines()
    assert "weights " in out and "total " in out
    assert re.fullmatch(rf"does not fit: needs [\d.]+ MB, and [\d.]+ MB are available: {change}", verdict)
    assert main(["plan", str(path), *more, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["fits"] is False and facts["total"] > facts["available"]


def test_without_room_for_a_cache_one_sequence_is_planned(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny())
    for asked, length, tokens in (({}, None, 512), ({}, 100, 100), ({"max_model_len": 64}, None, 64)):
        plan, config, _ = make(str(path), dict(ENGINE.defaults) | asked, length, 100 << 10)
        assert (plan.length, config.max_model_len, plan.max_sequences) == (tokens, tokens, 1) and not plan.fits
    with pytest.raises(CapacityError, match="kv_cache_memory is"):  # no memory would help these settings
        make(str(path), dict(ENGINE.defaults) | {"kv_cache_memory": 1024}, None, 100 << 10)
