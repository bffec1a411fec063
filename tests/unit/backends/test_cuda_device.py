"""What `--backend cuda` says where it cannot run, and what "auto" means. No torch is needed, or imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from octavo.assembly.engine import engine_config
from octavo.backends import host, registry
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
    for command in ("run", "plan"):
        arguments = ["x"] if command == "run" else []
        assert main([command, str(path), *arguments, "--backend", "cuda"]) != 0
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
