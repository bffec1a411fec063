"""The KV cache on a disk, with kernels and a model: what one process wrote, another reads, and nothing else does."""

from __future__ import annotations

import logging
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo import LLM, SamplingParams, _native
from octavo.backends.cpu.device import KV_VERSION
from octavo.errors import ConfigError
from octavo.kv.offload import OffloadedCache
from octavo.kv.slab import read_slab
from octavo.outputs import RequestOutput
from tests.tiny import Tiny, write_tiny_gguf

PROMPT = [1 + k * k % 90 for k in range(100)]
PARAMS = SamplingParams(temperature=0.8, seed=1, max_tokens=20, logprobs=3, ignore_eos=True)
# What the model below leaves on the disk, by `KV_VERSION` and type. If this fails, the bytes of a block have changed:
# change KV_VERSION, so that older files are not read, and write the new values here.
BYTES = {
    ("cpu-1", "f32"): "93e3e76b706a19f2afa97a86a90bf45252493acbbc7c51e830900542a89f70d2",
    ("cpu-1", "bf16"): "08795735d39625c8fb6c5d93f839f2d0c4e9deaa2e89a01272be28ff93eca226",
    ("cpu-1", "int8"): "d9387433442779fa162eed37b8ae9de59257a03bb5a7de0ffeb1076f8fdcd283",
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("disk") / "tiny.gguf", Tiny("qwen2"))


def ask(path: Path, folder: Path, **settings: Any) -> RequestOutput:
    defaults = {"max_model_len": 256, "threads": 1, "kv_disk_gb": 0.01}
    with LLM(path, kv_disk_cache=folder, **(defaults | settings)) as llm:
        (output,) = llm.generate([PROMPT], PARAMS)
    return output


def answer(output: RequestOutput) -> Any:
    return output.outputs[0].token_ids, output.outputs[0].logprobs


def test_every_instruction_set_reads_what_another_one_wrote(path: Path, tmp_path: Path) -> None:
    for isa in _native.isas():
        folder = tmp_path / isa
        first = ask(path, folder, isa=isa)
        assert first.num_cached_tokens == 0
        for other in _native.isas():
            again = ask(path, folder, isa=other, threads=2)
            assert again.num_cached_tokens == 96 and answer(again) == answer(first)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8"])
def test_the_bytes_of_a_block_belong_to_its_version(path: Path, tmp_path: Path, dtype: str) -> None:
    found = set()
    for isa in _native.isas():
        ask(path, tmp_path / isa, isa=isa, kv_cache_dtype=dtype)
        (file,) = (tmp_path / isa).iterdir()
        slab, digest = read_slab(file), sha256()
        into = np.empty(slab.header.block_bytes, np.uint8)
        for entry in sorted(slab.entries(), key=lambda entry: entry.key):
            assert slab.read(entry, into)
            digest.update(into.data)
        slab.close()
        found.add(digest.hexdigest())
    assert found == {BYTES[KV_VERSION, dtype]}, "see BYTES"


@pytest.mark.parametrize("settings", [{"kv_cache_dtype": "f32"}, {"block_size": 32}], ids=str)
def test_other_settings_have_a_file_of_their_own(path: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    ask(path, tmp_path)
    assert ask(path, tmp_path, **settings).num_cached_tokens == 0
    assert ask(path, tmp_path).num_cached_tokens == ask(path, tmp_path, **settings).num_cached_tokens == 96
    assert len(list(tmp_path.iterdir())) == 2


def test_another_model_of_the_same_shape_shares_nothing(path: Path, tmp_path: Path) -> None:
    ask(path, tmp_path)
    data = bytearray(path.read_bytes())
    data[-40] ^= 1  # a weight
    other = tmp_path / "other.gguf"
    other.write_bytes(data)
    assert ask(other, tmp_path).num_cached_tokens == 0


def test_another_version_starts_anew_with_one_warning(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ask(path, tmp_path)
    monkeypatch.setattr("octavo.kv.slab.FORMAT", 2)
    monkeypatch.setattr("octavo.assembly.kv_tiers.FORMAT", 2)
    assert ask(path, tmp_path).num_cached_tokens == 0
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "starts anew" in warnings[0]
    assert ask(path, tmp_path).num_cached_tokens == 96 and len(list(tmp_path.iterdir())) == 1


def test_preempted_sequences_come_back_from_the_disk(path: Path, tmp_path: Path) -> None:
    prompts = [[1 + (k + i) % 90 for k in range(40)] for i in range(8)]
    params = SamplingParams(temperature=0.8, max_tokens=60, logprobs=1, ignore_eos=True, seed=3)
    with LLM(path, max_model_len=256, threads=2) as llm:
        expected = [answer(output) for output in llm.generate(prompts, params)]
    for mode in ("swap", "auto", "recompute"):
        small = {"num_kv_blocks": 16, "preemption_mode": mode, "kv_disk_gb": 0.01}
        with LLM(path, max_model_len=256, threads=2, kv_disk_cache=tmp_path / mode, **small) as llm:
            assert [answer(output) for output in llm.generate(prompts, params)] == expected
            cache = llm.parts.engine.cache
            assert isinstance(cache, OffloadedCache)
            stats = cache.store.stats
            assert llm.parts.engine.stats.preemptions > 1
            assert stats.external_hits > 0 or mode != "swap"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"kv_disk_cache": "x", "enable_prefix_caching": False}, "enable_prefix_caching"),
    ({"kv_disk_cache": "x", "kv_cache": "contiguous"}, "kv_cache='paged'"),
    ({"kv_disk_cache": ""}, "path of a folder"),
    ({"kv_disk_cache": "x", "kv_disk_gb": 0}, "kv_disk_gb"),
    ({"kv_disk_cache": "x", "kv_disk_gb": "4"}, "kv_disk_gb"),
    ({"kv_disk_cache": "x", "kv_compaction": True}, "kv_compaction"),
    ({"kv_disk_gb": 2}, "kv_disk_gb needs kv_disk_cache"),
    ({"kv_disk_salted": True}, "kv_disk_salted needs kv_disk_cache"),
    ({"preemption_mode": "swap"}, "kv_disk_cache"),
    ({"preemption_mode": "wait"}, "recompute, swap, auto"),
    ({"kv_ram_gb": 1}, "kv_cache_memory"),
    ({"kv_disk_cache": "x", "backend": "reference"}, "reference"),
]


@pytest.mark.parametrize(("settings", "named"), BAD, ids=str)
def test_settings_that_contradict_are_refused(path: Path, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as error:
        LLM(path, **settings)
    assert named in str(error.value)
