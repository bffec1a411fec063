"""A user's mistake: one clear line on standard error, exit status 2, no traceback, nothing on standard output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from octavo.weights.gguf_writer import write_gguf
from tests.e2e.cli import octavo
from tests.quantize import quantize
from tests.tiny import Tiny, tiny_arrays, tiny_metadata

Files = dict[str, Path]


@pytest.fixture(scope="module")
def files(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("bad")
    good = tiny.read_bytes()
    changed = good[:8] + b"\xff" * 8 + good[16:]  # the number of tensors
    contents = {
        "truncated": good[: len(good) // 2],
        "headless": good[:20],
        "empty": b"",
        "text": b"this is no model\n" * 100,
        "corrupted": changed,
        "latin1": "déjà vu".encode("latin-1"),
    }
    made = {name: folder / f"{name}.gguf" for name in contents}
    for name, data in contents.items():
        made[name].write_bytes(data)
    weights = {name: quantize(array, "F32", name) for name, array in tiny_arrays(Tiny()).items()}
    metadata = tiny_metadata(Tiny())
    made["alien"] = folder / "alien.gguf"
    write_gguf(made["alien"], metadata | {"general.architecture": "alien"}, weights)
    made["base"] = folder / "base.gguf"
    write_gguf(made["base"], {k: v for k, v in metadata.items() if k != "tokenizer.chat_template"}, weights)
    made["folder"] = folder / "empty"
    made["folder"].mkdir()
    return made | {"tiny": tiny}


CASES: dict[str, tuple[Callable[[Files], list[str | Path]], str]] = {
    "no name": (lambda f: ["run", "", "hi"], "no model ''"),
    "missing file": (lambda f: ["run", "no/such/file.gguf", "hi"], "no model 'no/such/file.gguf'"),
    "misspelt alias": (lambda f: ["run", "smollm2-135", "hi"], "did you mean smollm2-135m"),
    "truncated file": (lambda f: ["run", f["truncated"], "hi"], "truncated.gguf"),
    "end of the header missing": (lambda f: ["info", f["headless"]], "headless.gguf"),
    "empty file": (lambda f: ["run", f["empty"], "hi"], "the file is empty"),
    "not a model": (lambda f: ["run", f["text"], "hi"], "GGUF"),
    "corrupted": (lambda f: ["run", f["corrupted"], "hi"], "corrupted.gguf"),
    "folder without a model": (lambda f: ["run", f["folder"], "hi"], "empty"),
    "unknown architecture": (lambda f: ["run", f["alien"], "hi"], "alien"),
    "empty prompt": (lambda f: ["run", f["tiny"], ""], "the prompt is empty"),
    "prompt too long": (lambda f: ["run", f["tiny"], "q" * 600], "more than max_model_len (512)"),
    "too many tokens wanted": (lambda f: ["run", f["tiny"], "q", "--max-tokens", "512"], "max_model_len (512)"),
    "prompt not UTF-8": (lambda f: ["run", f["tiny"], "--file", f["latin1"]], "not UTF-8"),
    "prompt file missing": (lambda f: ["run", f["tiny"], "--file", "nowhere.txt"], "nowhere.txt"),
    "two prompts": (lambda f: ["run", f["tiny"], "hi", "--file", f["text"]], "not both"),
    "temperature": (lambda f: ["run", f["tiny"], "hi", "--temperature", "-1"], "temperature must be"),
    "temperature no number": (lambda f: ["run", f["tiny"], "hi", "--temperature", "warm"], "--temperature"),
    "top_p": (lambda f: ["run", f["tiny"], "hi", "--top-p", "nan"], "top_p must be"),
    "max_tokens": (lambda f: ["run", f["tiny"], "hi", "--max-tokens", "-1"], "max_tokens must be"),
    "threads": (lambda f: ["run", f["tiny"], "hi", "--threads", "0"], "threads must be"),
    "too many threads": (lambda f: ["run", f["tiny"], "hi", "--threads", "100000"], "threads must be"),
    "max_num_seqs": (lambda f: ["run", f["tiny"], "hi", "--max-num-seqs", "100000000000"], "max_num_seqs must be"),
    "max_num_batched_tokens": (
        lambda f: ["run", f["tiny"], "hi", "--max-num-batched-tokens", "100000000000"],
        "max_num_batched_tokens must be",
    ),
    "blocks without number": (
        lambda f: ["run", f["tiny"], "hi", "--num-kv-blocks", "100000000000"],
        "num_kv_blocks must be",
    ),
    "more blocks than slots": (
        lambda f: ["run", f["tiny"], "hi", "--num-kv-blocks", "2000000000"],
        "134217727 blocks of block_size 16",
    ),
    "tiny cache": (lambda f: ["run", f["tiny"], "hi", "--kv-cache-memory", "1K"], "kv_cache_memory is 1.0 KiB"),
    "isa of no backend": (lambda f: ["run", f["tiny"], "hi", "--isa", "sse9", "--backend", "reference"], "isa must be"),
    "block_size": (lambda f: ["run", f["tiny"], "hi", "--block-size", "24"], "block_size must be"),
    "kv_cache_dtype": (lambda f: ["run", f["tiny"], "hi", "--kv-cache-dtype", "int2"], "kv_cache_dtype must be"),
    "isa": (lambda f: ["run", f["tiny"], "hi", "--isa", "sse9"], "sse9"),
    "max_model_len": (lambda f: ["run", f["tiny"], "hi", "--max-model-len", "9999"], "context is 512"),
    "small cache": (
        lambda f: ["run", f["tiny"], "hi", "--num-kv-blocks", "1", "--max-model-len", "64"],
        "num_kv_blocks",
    ),
    "size": (lambda f: ["run", f["tiny"], "hi", "--kv-cache-memory", "lots"], "'lots' is not a size"),
    "speculation": (lambda f: ["run", f["tiny"], "hi", "--speculative-config", "magic"], "magic"),
    "logit_bias": (lambda f: ["run", f["tiny"], "hi", "--logit-bias", "x"], "TOKEN_ID=BIAS"),
    "logprobs without json": (lambda f: ["run", f["tiny"], "hi", "--logprobs", "1"], "add --json"),
    "template with a mistake": (lambda f: ["run", f["tiny"], "hi", "--chat-template", "{% for %}"], "chat template"),
    "template that refuses": (
        lambda f: ["run", f["tiny"], "hi", "--chat-template", "{{ raise_exception('not you') }}"],
        "not you",
    ),
    "template that never ends": (
        lambda f: ["run", f["tiny"], "hi", "--chat-template", "{% for i in range(99999999) %}{{ i }}{% endfor %}"],
        "chat template",
    ),
    "template file missing": (lambda f: ["run", f["tiny"], "hi", "--chat-template", "no.jinja"], "no.jinja"),
    "chat without a template": (lambda f: ["chat", f["base"]], "no chat template"),
    "system without a template": (lambda f: ["run", f["base"], "hi", "--system", "x"], "system"),
    "unknown option": (lambda f: ["run", f["tiny"], "hi", "--tempreature", "1"], "--tempreature"),
    "template without a name": (lambda f: ["run", f["tiny"], "hi", "--chat-template", ""], "chat template ''"),
    "unknown command": (lambda f: ["rnu"], "did you mean `octavo run`"),
    "half a command": (lambda f: ["tune", "--help"], "`octavo tune layers`"),
    "another program's command": (lambda f: ["quantize", f["tiny"]], "`octavo build`"),
    "bench longer than the context": (
        lambda f: ["bench", f["tiny"], "--prompt-tokens", "600"],
        "the longest row has 664 tokens",
    ),
    "plan longer than the context": (lambda f: ["plan", f["tiny"], "--length", "600"], "at most max_model_len"),
    "nothing to run": (lambda f: ["run"], "model"),
    "batch": (lambda f: ["bench", f["tiny"], "--batch", "1,x"], "batch must be"),
    "batch of none": (lambda f: ["bench", f["tiny"], "--batch", "0"], "batch must be at least 1"),
    "backend": (lambda f: ["plan", f["tiny"], "--backend", "tpu"], "backend must be one of cpu, reference, null"),
    "tune of two layers": (
        lambda f: ["tune", "layers", f["tiny"], "--max-model-len", "512"],
        "has 2 layers: the first and the last are always run",
    ),
    "a --model that is not there": (
        lambda f: ["serve", f["tiny"], "--model", "other=no/such.gguf"],
        "--model other=no/such.gguf: no model 'no/such.gguf'",
    ),
    "a --model that is no model": (
        lambda f: ["serve", f["tiny"], "--model", f"other={f['text']}"],
        "text.gguf: magic: not a GGUF file",
    ),
    "a --model of no known kind": (lambda f: ["serve", "--model", f"other={f['alien']}"], "alien"),
    "port": (lambda f: ["serve", f["tiny"], "--port", "99999999"], "port must be from 0 to 65535; got 99999999"),
    "no certificate": (
        lambda f: ["serve", f["tiny"], "--ssl-certfile", f["text"], "--ssl-keyfile", f["text"]],
        "are no certificate and its private key",
    ),
    "memory for no model": (lambda f: ["serve", f["tiny"], "--memory", "5"], "MiB: raise memory, 0 MiB"),
    "no time for an engine": (lambda f: ["serve", f["tiny"], "--engine-timeout", "0"], "engine_timeout must be more"),
    "no connections": (lambda f: ["serve", f["tiny"], "--max-connections", "0"], "max_connections must be more than 0"),
    "no URL": (lambda f: ["serve", f["tiny"], "--otlp-endpoint", "here"], "otlp_endpoint must be a URL"),
    "negative port": (lambda f: ["serve", f["tiny"], "--port", "-1"], "port must be from 0 to 65535"),
    "bench of nothing": (lambda f: ["bench"], "give one model"),
    "bench of two": (lambda f: ["bench", f["tiny"], "--model", f["tiny"]], "give one model"),
    "rm of nothing": (lambda f: ["rm", "nothing.gguf"], "cannot delete 'nothing.gguf': there is no such model"),
    "rm of a file elsewhere": (lambda f: ["rm", f["tiny"]], "delete a file of yours yourself"),
    "pull of nothing": (lambda f: ["pull", "nothing"], "cannot pull 'nothing'"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_clear_line(name: str, files: Files):
    arguments, expected = CASES[name]
    done = octavo(*arguments(files))
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("octavo: ") and expected in line
    assert done.stdout == ""


def test_our_own_bug_keeps_its_traceback(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    from octavo.cli import main, run

    def broken(*arguments: object) -> str:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(run, "read_prompt", broken)
    with pytest.raises(ZeroDivisionError):
        main.main(["run", str(tiny), "hi"])
