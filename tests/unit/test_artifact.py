"""The packed artifact: the same bits as the source file, mapped and not copied, and bad files are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo import LLM, SamplingParams, _native
from octavo.backends.cpu.footprint import footprint
from octavo.backends.cpu.packing import LAYOUT, check_panels, pack, packed_bytes, panels, view
from octavo.cli.main import main
from octavo.config import CacheConfig
from octavo.errors import ConfigError, ModelFileError, OctavoError
from octavo.ir import ROWS, Model, Weight
from octavo.models.registry import build_model
from octavo.processing.inputs import Prompt
from octavo.weights import open_checkpoint
from octavo.weights.artifact import write_artifact
from octavo.weights.checkpoint import Bytes
from octavo.weights.formats import FORMATS, GGUF_TYPES
from octavo.weights.sources import resolve
from tests.models import model_path
from tests.tiny import FAMILIES, Tiny, write_tiny_gguf, write_tiny_hf
from tests.unit.weights.tiny import random_weight

PROMPTS: list[Prompt] = ["the sun is", "a", "no one is here and no one is there"]
WIDE = Tiny(hidden=256, heads=4, head_dim=64, ffn=256)  # of K-quants


def build(source: Path, folder: Path, overwrite: bool = False) -> Path:
    checkpoint = open_checkpoint(source)
    model = build_model(checkpoint)
    write_artifact(folder, checkpoint, model.weights, lambda: panels(model), LAYOUT, overwrite)
    return folder


def load(folder: Path) -> Model:
    """The artifact's model, checked as the CPU backend does before it touches a weight."""
    model = build_model(open_checkpoint(folder))
    check_panels(model)
    return model


def answers(model: Path) -> list[tuple[list[int], list[float]]]:
    """Tokens, and the exact logprobs of the best three at each position."""
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, logprobs=3)
    with LLM(model, max_model_len=128, num_kv_blocks=64) as llm:
        found = []
        for output in llm.generate(PROMPTS, params, use_tqdm=False):
            best = output.outputs[0]
            assert best.logprobs
            found.append((best.token_ids, [entry.logprob for step in best.logprobs for entry in step.values()]))
        return found


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    return build(write_tiny_gguf(folder / "tiny.gguf", Tiny(type="Q8_0")), folder / "made")


@pytest.fixture
def copied(artifact: Path, tmp_path: Path) -> Path:
    """A copy of the artifact that a test may change."""
    return Path(shutil.copytree(artifact, tmp_path / "copy"))


# ---------------------------------------------------------------- the same as the source


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_bits_as_the_file(family: str, tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "m.gguf", Tiny(family, type="Q8_0", tied=family != "qwen2"))
    assert answers(build(source, tmp_path / "made")) == answers(source)


@pytest.mark.parametrize("type", ["Q4_K", "Q6_K", "Q4_0", "F16"])
def test_the_same_bits_in_other_encodings(type: str, tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "m.gguf", Tiny(**(vars(WIDE) | {"type": type})))
    assert answers(build(source, tmp_path / "made")) == answers(source)


@pytest.mark.parametrize("family", ["llama", "gemma3"])  # Gemma's norms are changed on the way in
def test_the_same_bits_as_a_folder(family: str, tmp_path: Path) -> None:
    source = write_tiny_hf(tmp_path / "m", Tiny(family), "BF16")
    made = build(source, tmp_path / "made")
    assert answers(made) == answers(source)
    assert not list(made.glob("*.safetensors"))


def test_a_real_model_says_the_same(tmp_path: Path) -> None:
    source = model_path("smollm2-135m")
    assert answers(build(source, tmp_path / "made")) == answers(source)


def test_every_layer_of_the_settings_survives(tmp_path: Path) -> None:
    wide = {"rope.scaling.factor": np.float64(1 / 3), "some.ids": np.arange(3, dtype=np.uint16), "split.count": 0}
    source = open_checkpoint(write_tiny_gguf(tmp_path / "m.gguf", Tiny(gguf=wide)))
    made = open_checkpoint(build(source.path, tmp_path / "made"))
    assert made.metadata["llama.rope.scaling.factor"] == 1 / 3
    kept = {key: value for key, value in source.metadata.items() if not key.startswith("split.")}
    assert made.metadata.keys() == kept.keys()
    for key, value in kept.items():
        assert list(made.metadata[key]) == list(value) if hasattr(value, "__len__") else made.metadata[key] == value


def test_all_parts_of_a_split_model_go_in(tmp_path: Path) -> None:
    from octavo.weights.gguf_writer import write_gguf

    whole = open_checkpoint(write_tiny_gguf(tmp_path / "m.gguf"))
    names = list(whole.tensors)
    for number, part in enumerate([names[:5], names[5:]]):
        metadata = dict(whole.metadata) if number == 0 else {}
        metadata |= {"split.count": np.uint16(2), "split.no": np.uint16(number)}
        metadata |= {"split.tensors.count": np.int32(len(names))}
        metadata = {key: list(v) if hasattr(v, "_starts") else v for key, v in metadata.items()}
        path = tmp_path / f"m-0000{number + 1}-of-00002.gguf"
        write_gguf(path, metadata, {name: whole.tensors[name] for name in part})
    made = build(tmp_path / "m-00001-of-00002.gguf", tmp_path / "made")
    assert answers(made) == answers(tmp_path / "m.gguf")
    parts = b"".join(path.read_bytes() for path in sorted(tmp_path.glob("m-*.gguf")))
    source = json.loads((made / "manifest.json").read_text())["source"]
    assert source == {
        "file": "m-00001-of-00002.gguf",
        "bytes": len(parts),
        "sha256": hashlib.sha256(parts).hexdigest(),
    }


# ---------------------------------------------------------------- mapped, not copied


def anonymous() -> int:
    """Bytes of this process's memory that are not mapped from a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_weights_are_in_memory_once_and_shared(tmp_path: Path) -> None:
    tiny = Tiny(hidden=512, heads=8, head_dim=64, kv_heads=8, ffn=2048, layers=3, type="F16")
    made = build(write_tiny_gguf(tmp_path / "m.gguf", tiny), tmp_path / "made")
    weights = (made / "weights.bin").stat().st_size
    assert weights > 20e6
    before = anonymous()
    with LLM(made, max_model_len=64, num_kv_blocks=8, max_num_seqs=1, max_num_batched_tokens=32) as llm:
        llm.generate("the sun", SamplingParams(temperature=0.0, max_tokens=4), use_tqdm=False)
        assert anonymous() - before < weights / 2
        maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "weights.bin" in line]
        assert {fields[1] for fields in maps} == {"r--s"}
        assert llm.parts.backend.memory()["weights"] >= weights - 4096


@pytest.mark.parametrize("own", [False, True], ids=["gguf", "own"])
def test_the_layout_is_what_its_version_says(own: bool) -> None:
    """If this fails, existing artifacts no longer fit: raise kLayoutVersion in native/pack.h."""
    pool, digest = _native.Pool(1), hashlib.sha256()
    for type in sorted(FORMATS.keys() - GGUF_TYPES if own else GGUF_TYPES):
        weight = random_weight(type, rows=20, columns=256, seed=1)
        memory = _native.Weights(packed_bytes(weight))
        pack(weight, pool, memory, 0)
        digest.update(memory.data.tobytes())
    assert (_native.LAYOUT_VERSION, digest.hexdigest()) == DIGESTS[own]


DIGESTS = {
    False: (1, "8ee4e3a2fcfc23b2e328c0a1d9d7a4cfc269108ce4a7dc9edab89fc7d300b9b5"),
    True: (1, "dcbec5b114a66fd6a38cc704f93b6e4ee1b57fd13b974e2e497be65caa06ef55"),
}


# ---------------------------------------------------------------- what is refused

Values = dict[str, Any]


def _set(key: str, value: Any) -> Callable[[Values], None]:
    return lambda manifest: manifest.__setitem__(key, value)


def _entry(key: str, value: Any, name: str = "blk.0.attn_q.weight") -> Callable[[Values], None]:
    return lambda manifest: manifest["weights"][name].__setitem__(key, value)


BAD = {
    "not ours": (_set("format", "zip"), "format"),
    "a later version": (_set("version", 2), "version"),
    "another layout": (_set("layout", 999), "layout.*build it again"),
    "rows instead of panels": (_set("layout", 0), "layout"),
    "a layout that is no number": (_set("layout", "1"), "layout"),
    "bytes of another file": (_set("bytes", 64), "bytes"),
    "no bytes": (_set("bytes", None), "bytes"),
    "weights as a list": (_set("weights", []), "weights"),
    "an entry that is none": (lambda m: m["weights"].__setitem__("blk.0.attn_q.weight", 3), "attn_q"),
    "no source": (_set("source", None), "source"),
    "unknown type": (_entry("type", "Q9_9"), "type"),
    "type of another kind": (_entry("type", ["Q8_0"]), "type"),
    "a larger type": (_entry("type", "F32"), "attn_q.*type F32.*call for"),
    "three sides": (_entry("shape", [2, 2, 2]), "shape"),
    "no rows": (_entry("shape", [0, 64]), "shape"),
    "negative": (_entry("shape", [64, -64]), "shape"),
    "true": (_entry("shape", [True, 64]), "shape"),
    "enormous": (_entry("shape", [2**31 - 1, 2**31 - 32]), "attn_q.*shape"),
    "too wide for an int": (_entry("shape", [2**40, 64]), "shape"),
    "half a block": (_entry("shape", [64, 48]), "shape"),
    "other rows": (_entry("shape", [48, 64]), "attn_q.*shape"),
    "unaligned": (_entry("offset", 32), "offset"),
    "negative offset": (_entry("offset", -64), "offset"),
    "an offset that is no number": (_entry("offset", "0"), "offset"),
    "past the end": (_entry("offset", 1 << 40), "offset"),
    "inside another": (_entry("offset", 0), "offset"),
    "twice": (
        lambda m: m["weights"].__setitem__("output_norm.weight", m["weights"]["token_embd.weight"]),
        "offset|too",
    ),
    "one missing": (lambda m: m["weights"].pop("blk.1.ffn_up.weight"), "blk.1.ffn_up.weight"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_manifest_that_lies_is_refused(name: str, copied: Path) -> None:
    spoil, named = BAD[name]
    manifest = json.loads((copied / "manifest.json").read_text())
    spoil(manifest)
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelFileError, match=named):
        load(copied)


def test_a_plan_is_not_made_for_panels_of_another_layout(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(manifest | {"layout": LAYOUT + 1}))
    model = build_model(open_checkpoint(copied))
    with pytest.raises(ModelFileError, match="build it again"):
        footprint(model, CacheConfig(num_blocks=4), max_tokens=16, max_seqs=1, max_context=64, threads=1, isa="auto")


@pytest.mark.parametrize("name", ["weights.bin", "model.gguf", "strings.json", "manifest.json"])
@pytest.mark.parametrize("keep", [None, 0, 0.5])
def test_files_that_are_cut_off_or_gone_are_named(name: str, keep: float | None, copied: Path) -> None:
    path = copied / name
    if keep is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ModelFileError, match=r"manifest\.json|" + name.replace(".", r"\.")):
        build_model(open_checkpoint(resolve(str(copied))))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_manifest_does_worse_than_be_refused(data: st.DataObject, artifact: Path) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    place = data.draw(st.sampled_from([manifest, manifest["weights"], *manifest["weights"].values()]))
    place[data.draw(st.sampled_from(list(place)))] = data.draw(JSON)
    spoiled = artifact.with_name("spoiled")
    spoiled.mkdir(exist_ok=True)
    for file in artifact.iterdir():
        if not (spoiled / file.name).exists():
            (spoiled / file.name).symlink_to(file)
    (spoiled / "manifest.json").unlink()
    (spoiled / "manifest.json").write_text(json.dumps(manifest))
    try:
        model = load(spoiled)
    except ModelFileError:
        return
    for weight in model.weights.values():
        if weight.layout != ROWS:
            view(weight).row(weight.shape[0] - 1)


def test_the_reference_backend_says_why_not(artifact: Path) -> None:
    with pytest.raises(ConfigError, match="reference"):
        LLM(artifact, backend="reference")


def test_an_artifact_is_not_built_from_an_artifact(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="already"):
        build(artifact, tmp_path / "again")


# ---------------------------------------------------------------- writing


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny_gguf(tmp_path / "m.gguf"))
    model = build_model(checkpoint)

    def half() -> Iterator[tuple[str, Weight, Bytes]]:
        yield next(iter(panels(model)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_artifact(tmp_path / "made", checkpoint, model.weights, half, LAYOUT)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_only_an_artifact_is_replaced_and_only_on_demand(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "m.gguf")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="is not an artifact"):
            build(source, tmp_path / "mine", overwrite)
    (tmp_path / "empty").mkdir()
    made = build(source, tmp_path / "empty")
    with pytest.raises(ConfigError, match="--force"):
        build(source, made)
    before = (made / "weights.bin").stat().st_ino
    with LLM(made, max_model_len=64) as llm:  # goes on with the old one
        build(source, made, overwrite=True)
        llm.generate("a", SamplingParams(max_tokens=2), use_tqdm=False)
    assert (made / "weights.bin").stat().st_ino != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "m.gguf", "mine"]


def test_where_nothing_can_be_written_the_folder_is_named(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "m.gguf")
    with pytest.raises(ConfigError, match="cannot write"):
        build(source, source / "inside-a-file")


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, made = write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "deep" / "made"
    assert main(["build", str(source), "-o", str(made), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["path"] == str(made)
    assert said["bytes"] == sum(file.stat().st_size for file in made.iterdir())
    assert main(["info", str(made), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["format"], info["architecture"], info["layers"]) == ("artifact of tiny.gguf", "llama", 2)
    assert main(["plan", str(made), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert main(["plan", str(source), "--json"]) == 0
    assert plan["weights"] == json.loads(capsys.readouterr().out)["weights"]
    texts = []
    for model in (source, made):
        assert main(["run", str(model), "the sun", "--temperature", "0", "--max-tokens", "8"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != ""
    assert main(["build", str(source), "-o", str(made)]) == 2
    assert "--force" in capsys.readouterr().err


def test_opening_loads_no_tensor_library_and_reads_no_weights(artifact: Path) -> None:
    program = f"""
import sys
from octavo.weights import open_checkpoint
open_checkpoint({str(artifact)!r})
print({{"torch", "rich", "jinja2", "typer"}} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_errors_are_a_users(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(OctavoError, match="octavo build"):
        open_checkpoint(tmp_path)
