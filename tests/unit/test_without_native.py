"""Without the compiled module all but the CPU backend works: reading files, other backends, importing the server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from octavo.backends.cpu.packing import LAYOUT, panels
from octavo.models.registry import build_model
from octavo.weights import open_checkpoint
from octavo.weights.artifact import write_artifact
from tests.tiny import Tiny, write_tiny_gguf, write_tiny_hf

PROGRAM = """
import sys
sys.modules["octavo._native"] = None  # importing it raises ImportError

import octavo.assembly.engine, octavo.server.engine.worker
from octavo import LLM, SamplingParams
from octavo.models.registry import load_model

gguf, folder, artifact = sys.argv[1:]
params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
for source, backend in ((gguf, "reference"), (folder, "reference"), (gguf, "null"), (folder, "null")):
    with LLM(source, backend=backend, max_model_len=64, num_kv_blocks=8) as llm:
        assert len(llm.generate("the sun", params, use_tqdm=False)[0].outputs[0].token_ids) == 4
assert load_model(artifact).weights.keys() == load_model(gguf).weights.keys()
try:
    LLM(gguf, backend="cpu")
except ImportError as error:
    print(error)
"""


def test_files_are_read_and_other_backends_run(tmp_path: Path) -> None:
    gguf = write_tiny_gguf(tmp_path / "m.gguf", Tiny(type="Q8_0"))
    folder = write_tiny_hf(tmp_path / "m", Tiny("gemma3"))
    checkpoint = open_checkpoint(gguf)
    model = build_model(checkpoint)
    write_artifact(tmp_path / "made", checkpoint, model.weights, lambda: panels(model), LAYOUT)
    command = [sys.executable, "-c", PROGRAM, str(gguf), str(folder), str(tmp_path / "made")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "_native" in result.stdout, "the compiled module was not blocked"
