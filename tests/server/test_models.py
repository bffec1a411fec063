"""Several models in one server: loaded on first use, unloaded when idle or when memory is short."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import psutil
import pytest

from octavo.assembly.engine import load_tokenizer
from octavo.models.registry import open_checkpoint
from octavo.server.api.live import model_state
from octavo.server.model_pool import memory_needed
from octavo.server.runtime import Runtime
from octavo.server.settings import ModelSource, ServerSettings
from tests.server.harness import Server, serving, until
from tests.tiny import Tiny, write_tiny_gguf, write_tiny_hf

ASK = {"prompt": "x", "max_tokens": 2, "temperature": 0, "seed": 1}
KV = ("--kv-cache-memory", "8M")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two more models, as options."""
    folder = tmp_path_factory.mktemp("others")
    for name, tiny in (("qwen", Tiny("qwen2", seed=1)), ("gemma", Tiny("gemma3", seed=2))):
        write_tiny_gguf(folder / f"{name}.gguf", tiny)
    return [option for name in ("qwen", "gemma") for option in ("--model", f"{name}={folder / name}.gguf")]


def engines(server: Server) -> int:
    return len([c for c in psutil.Process(server.process.pid).children() if c.status() != psutil.STATUS_ZOMBIE])


def states(server: Server) -> dict[str, str]:
    return {card["id"]: card["state"] for card in server.get("/v1/models")[1]["data"]}


def test_models_are_loaded_when_asked_for_and_unloaded_when_idle(
    tiny_model: Path, others: list[str], logs: Path
) -> None:
    options = ("--served-model-name", "first", "--served-model-name", "second-name", *KV, *others)
    with serving(tiny_model, *options, "--idle-timeout", "4", folder=logs) as server:
        assert states(server) == {"first": "ready", "second-name": "ready", "qwen": "stopped", "gemma": "stopped"}
        texts = {}
        for name in ("first", "qwen", "gemma", "second-name"):
            status, answer = server.post("/v1/completions", ASK | {"model": name})
            assert status == 200 and answer["model"] == name
            texts[name] = answer["choices"][0]["text"]
        assert texts["first"] == texts["second-name"] and len(set(texts.values())) == 3
        assert engines(server) == 3 and set(states(server).values()) == {"ready"}
        idle = {"first": "ready", "second-name": "ready", "qwen": "stopped", "gemma": "stopped"}
        until(lambda: engines(server) == 1 and states(server) == idle, 15)
        assert server.post("/v1/completions", ASK | {"model": "qwen"})[1]["choices"][0]["text"] == texts["qwen"]
        assert server.status("/ready") == 200
        assert server.post("/v1/completions", ASK | {"model": "nobody"})[0] == 404


def test_one_makes_room_for_another(tiny_model: Path, others: list[str], logs: Path) -> None:
    need = memory_needed(ModelSource(("t",), str(tiny_model), {"kv_cache_memory": 8 << 20}))
    memory = str(int(2.5 * need))
    with serving(tiny_model, *KV, *others, "--memory", memory, folder=logs) as server:
        assert server.post("/v1/completions", ASK | {"model": "qwen"})[0] == 200
        time.sleep(0.01)
        assert server.post("/v1/completions", ASK | {"model": "gemma"})[0] == 200
        assert sorted(states(server).values()) == ["ready", "ready", "stopped"]
        assert states(server)["gemma"] == "ready"
        assert server.post("/v1/completions", ASK | {"model": "tiny"})[0] == 200


def test_a_model_that_cannot_be_loaded_fails_alone(tiny_model: Path, tmp_path: Path, logs: Path) -> None:
    """It was a model when the server started, which refuses any other file: see tests/e2e/test_bad_input.py."""
    bad = tmp_path / "bad.gguf"
    shutil.copy(tiny_model, bad)
    with serving(tiny_model, *KV, "--model", f"bad={bad}", folder=logs) as server:
        bad.write_bytes(b"GGUF" + bytes(64))
        status, answer = server.post("/v1/completions", ASK | {"model": "bad"})
        assert status == 503 and "version" in answer["error"]["message"]
        assert server.post("/v1/completions", ASK)[0] == 200
        assert server.status("/health") == 200 and "Traceback" not in server.log


def test_the_state_tells_a_base_model_from_one_that_chats(tiny_model: Path, tmp_path: Path) -> None:
    base = write_tiny_hf(tmp_path)
    (base / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    for path, given, expected in ((tiny_model, None, True), (base, None, False), (base, "{{ messages }}", True)):
        runtime = Runtime(ModelSource(("m",), str(path), chat_template=given), ServerSettings(models=()))
        assert model_state(runtime)["chat_template"] is (True if given else None)  # not known before it is loaded
        runtime.tokenizer = load_tokenizer(open_checkpoint(path), None)
        assert model_state(runtime)["chat_template"] is expected
