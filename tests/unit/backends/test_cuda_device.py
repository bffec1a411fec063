"""What `--backend cuda` says where it cannot run, and what "auto" means. No torch is needed, or imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from octavo.assembly.engine import engine_config
from octavo.backends import host, registry
from octavo.backends.base import Facts
from octavo.backends.cuda import device
from octavo.cli.main import main
from octavo.errors import ConfigError
from tests.tiny import write_tiny_gguf


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_without_torch_one_line_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device, "installed", lambda: False)
    path = write_tiny_gguf(tmp_path / "m.gguf")
    for command in (["run", str(path), "x"], ["plan", str(path)]):  # plan asks how much memory is free
        assert main([*command, "--backend", "cuda"]) != 0
        error = capsys.readouterr().err
        assert "backend cuda needs torch and triton: pip install 'octavo[cuda]'" in error
        assert "Traceback" not in error


def test_without_a_gpu_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "installed", lambda: True)
    monkeypatch.setattr(host, "has_gpu", lambda: False)
    with pytest.raises(ConfigError, match="needs an NVIDIA GPU and its driver"):
        device.check_device()


@pytest.mark.parametrize(("gpu", "name"), [(True, "cuda"), (False, "cpu")])
def test_auto(gpu: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "has_gpu", lambda: gpu)
    assert registry.choose("auto") == engine_config(backend="auto").backend == name
    assert registry.choose("null") == "null"


def test_the_share_of_memory_is_cudas_own_setting() -> None:
    assert engine_config(backend="cuda", gpu_memory_utilization=0.5).backend_options["gpu_memory_utilization"] == 0.5
    assert "gpu_memory_utilization" not in engine_config(gpu_memory_utilization=0.5).backend_options
    for wrong in (0, 1.5, True, "much"):
        with pytest.raises(ConfigError, match="gpu_memory_utilization must be above 0"):
            engine_config(backend="cuda", gpu_memory_utilization=wrong)


def test_graphs_can_be_switched_off() -> None:
    assert engine_config(backend="cuda").backend_options["cuda_graphs"] is None
    for off in ({"cuda_graphs": "off"}, {"enforce_eager": True}):
        assert engine_config(backend="cuda", **off).backend_options["cuda_graphs"] == "off"
    with pytest.raises(ConfigError, match="cuda_graphs must be on or off; got 'sometimes'"):
        engine_config(cuda_graphs="sometimes")


def test_nothing_imports_torch_until_the_backend_is_made() -> None:
    code = (
        "import sys, octavo.cli.main; from octavo.assembly.engine import engine_config;"
        "from octavo.backends import registry;"
        "engine_config(backend='cuda'); registry.option_names();"
        "assert not {'torch', 'triton'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_plan_for_a_gpu_needs_neither_it_nor_torch(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    code = (
        "import sys; from octavo.cli.main import main;"
        f"status = main(['plan', {str(path)!r}, '--backend', 'cuda', '--device-memory', '80G', '--json']);"
        "assert not {'torch', 'triton'} & sys.modules.keys(); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    facts = json.loads(done.stdout)
    assert facts["available"] == int(0.9 * 80 * 2**30) and facts["fits"] and facts["weights"] > 0
    assert facts["max_sequences"] == facts["max_num_seqs"], "the pool holds all that may run"


def test_device_memory_is_a_gpu_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_tiny_gguf(tmp_path / "m.gguf"))
    for options, message in (([], "with backend cpu it is --memory"), (["--memory", "1G"], "give one of them")):
        assert main(["plan", path, "--device-memory", "80G", *options]) == 2
        assert message in capsys.readouterr().err


def test_gpus_are_listed_by_their_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559, 1024'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert host.gpus() == [Facts("NVIDIA H100 80GB HBM3", 81559 << 20, 1024 << 20)]
    monkeypatch.setenv("PATH", "")
    assert host.gpus() == []
