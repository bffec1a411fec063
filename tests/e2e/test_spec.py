"""Speculation changes no bit of any output: every method on the native backend, with every feature of a request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from octavo import LLM, ConfigError, SamplingParams
from octavo.assembly.speculation import tuned_path
from octavo.outputs import RequestOutput
from octavo.sampling_params import StructuredOutputs
from octavo.spec.controller import Controller
from octavo.weights.gguf_writer import write_gguf
from tests.models import model_path
from tests.quantize import quantize
from tests.tiny import Tiny, tiny_arrays, tiny_metadata, write_tiny_gguf

LAYERS = 4
MAIN = Tiny(layers=LAYERS, type="Q4_0")
TEXTS = [
    "the rain in spain stays in the plain, the rain in spain stays",
    "one two three one two three one two",
    "abc",
    "hello there, hello there, hel",
    *(f"number {i} is not number {i + 1}, number {i}" for i in range(12)),
]
ALL_SORTS = [
    SamplingParams(temperature=0, max_tokens=40, ignore_eos=True),
    SamplingParams(temperature=0.8, seed=3, n=3, max_tokens=30, logprobs=2, top_p=0.9),
    SamplingParams(
        temperature=1.0, seed=4, max_tokens=40, frequency_penalty=0.4, presence_penalty=0.2, ignore_eos=True
    ),
    SamplingParams(temperature=0.7, seed=5, max_tokens=40, repetition_penalty=1.3, top_k=20, bad_words=("the", "e")),
    SamplingParams(temperature=0, max_tokens=40, min_tokens=20, logit_bias={40: 4.0, 41: -4.0}, logprobs=0),
    SamplingParams(temperature=0, max_tokens=40, stop=("a", "in"), min_tokens=6),
    SamplingParams(temperature=0.9, seed=6, min_p=0.05, max_tokens=35, stop_token_ids=(70, 71), prompt_logprobs=1),
    SamplingParams(temperature=1.2, seed=7, typical_p=0.8, max_tokens=30, allowed_token_ids=tuple(range(60, 90))),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("spec")
    return {
        "main": write_tiny_gguf(folder / "main.gguf", MAIN),
        "cut": write_cut(folder / "cut.gguf", MAIN, 2),
        "other": write_tiny_gguf(folder / "other.gguf", Tiny(layers=1, type="Q4_0", seed=1)),
        "gemma": write_tiny_gguf(folder / "gemma.gguf", Tiny("gemma3", layers=LAYERS, type="Q8_0")),
    }


def write_cut(path: Path, tiny: Tiny, layers: int) -> Path:
    """Writes the first layers of a model as a separate model."""
    gone = tuple(f"blk.{i}." for i in range(layers, tiny.layers))
    arrays = {name: array for name, array in tiny_arrays(tiny).items() if not name.startswith(gone)}
    weights = {name: quantize(a, tiny.type if a.ndim > 1 else "F32", name) for name, a in arrays.items()}
    write_gguf(path, tiny_metadata(replace(tiny, layers=layers)), weights)
    return path


def configs(models: dict[str, Path]) -> dict[str, dict[str, Any]]:
    return {
        "ngram": {"method": "ngram", "num_speculative_tokens": 7},
        "suffix": {"method": "suffix"},
        "shared suffix": {"method": "suffix", "suffix_decoding_max_cached_tokens": 2000},
        "layer_skip": {"method": "layer_skip", "layers": [0, 1, 3]},
        "early_exit": {"method": "early_exit", "layers": 3},
        "itself": {"model": str(models["main"]), "num_speculative_tokens": 4, "draft_min_probability": 0},
        "cut to two layers": {"method": "draft_model", "model": str(models["cut"]), "draft_min_probability": 0},
        "another model": {"method": "draft_model", "model": str(models["other"])},
        "tree": {"method": "tree"},
        "auto": {"method": "auto", "layers": [0, 1, 2], "model": str(models["other"])},
    }


NAMES = list(configs({"main": Path(), "other": Path(), "cut": Path()}))


def run(model: Path, config: dict[str, Any] | None, jobs: list[tuple[str, SamplingParams]], **settings: Any) -> Any:
    settings = {"max_model_len": 192, "max_num_seqs": 16} | settings
    with LLM(model, speculative_config=config, **settings) as llm:
        texts, params = zip(*jobs, strict=True)
        outputs = llm.generate(list(texts), list(params), use_tqdm=False)
        return [said(output) for output in outputs], llm.parts.engine.stats


def said(output: RequestOutput) -> list[Any]:
    answers = [(c.token_ids, c.text, c.finish_reason, c.stop_reason, c.logprobs) for c in output.outputs]
    return [output.prompt_logprobs, *answers]


@pytest.fixture(scope="module")
def plain(models: dict[str, Path]) -> Any:
    """The main model's answers without speculation, by request. Each is computed once."""
    answers: dict[Any, Any] = {}

    def get(key: Any, jobs: list[tuple[str, SamplingParams]], **settings: Any) -> Any:
        if key not in answers:
            answers[key] = run(models["main"], None, jobs, **settings)
        return answers[key][0]

    return get


@pytest.mark.parametrize("name", NAMES)
def test_all_sorts_of_requests(models: dict[str, Path], plain: Any, name: str) -> None:
    jobs = list(zip(TEXTS, ALL_SORTS, strict=False)) + list(zip(TEXTS[1:], ALL_SORTS, strict=False))
    answers, stats = run(models["main"], configs(models)[name], jobs)
    assert answers == plain("sorts", jobs)
    assert stats.draft_tokens > 0
    assert stats.backend_errors == 0


@pytest.mark.parametrize("name", NAMES)
def test_few_blocks_preemption_and_shared_prefixes(models: dict[str, Path], plain: Any, name: str) -> None:
    start = TEXTS[0]
    sampled = SamplingParams(temperature=0.8, seed=1, max_tokens=50, presence_penalty=0.3, ignore_eos=True, logprobs=1)
    jobs = [(start + text, sampled) for text in TEXTS[:6]] + [(start, SamplingParams(temperature=0.9, seed=2, n=2))]
    answers, stats = run(models["main"], configs(models)[name], jobs, num_kv_blocks=20, max_num_batched_tokens=48)
    assert answers == plain("few", jobs)
    assert stats.preemptions > 0 and stats.draft_tokens > 0


@pytest.mark.parametrize("name", NAMES)
def test_structured_output(models: dict[str, Path], plain: Any, name: str) -> None:
    """The grammar judges each draft token in its state after the draft tokens before it."""
    pytest.importorskip("llguidance")
    shapes = [
        StructuredOutputs(regex=r"(ab)+c\d{3}"),
        StructuredOutputs(json={"type": "array", "items": {"type": "integer"}, "minItems": 3}),
        StructuredOutputs(choice=("yes yes yes yes no", "yes yes yes no")),
    ]
    jobs = [
        (text, SamplingParams(temperature=heat, seed=8, max_tokens=32, structured_outputs=shape, logprobs=1))
        for text, shape in zip(TEXTS, shapes, strict=False)
        for heat in (0.0, 0.9)
    ]
    answers, stats = run(models["main"], configs(models)[name], jobs)
    assert answers == plain("structured", jobs)
    assert stats.draft_tokens > 0 or name == "auto"


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8, 16])
def test_every_batch_size(models: dict[str, Path], plain: Any, batch: int) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    expected = plain("greedy", [(text, greedy) for text in TEXTS])
    for name in ("ngram", "layer_skip", "another model", "auto"):
        answers, _ = run(models["main"], configs(models)[name], [(text, greedy) for text in TEXTS[:batch]])
        assert answers == expected[:batch], name


@pytest.mark.parametrize("name", ["ngram", "early_exit", "tree"])
def test_a_windowed_family_and_each_cache_type(models: dict[str, Path], name: str) -> None:
    jobs = list(zip(TEXTS, ALL_SORTS[:3], strict=False))
    for dtype in ("f32", "bf16", "int8"):
        truth, _ = run(models["gemma"], None, jobs, kv_cache_dtype=dtype)
        assert run(models["gemma"], configs(models)[name], jobs, kv_cache_dtype=dtype)[0] == truth


@pytest.mark.parametrize("name", ["layer_skip", "itself"])
def test_the_contiguous_cache(models: dict[str, Path], plain: Any, name: str) -> None:
    jobs = list(zip(TEXTS, ALL_SORTS, strict=False))
    assert run(models["main"], configs(models)[name], jobs, kv_cache="contiguous")[0] == plain("contiguous", jobs)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_model_that_drafts_for_itself_is_always_right(models: dict[str, Path], temperature: float) -> None:
    """Also when sampling: it draws with the random numbers that verification will use."""
    params = SamplingParams(temperature=temperature, seed=9, max_tokens=48, ignore_eos=True, repetition_penalty=1.1)
    jobs = [(text, params) for text in TEXTS[:4]]
    for config in (configs(models)["itself"], {"method": "early_exit", "layers": LAYERS, "draft_min_probability": 0}):
        _, stats = run(models["main"], config, jobs)
        assert stats.accepted_tokens == stats.draft_tokens > 100
        assert stats.steps < 20


def test_a_greedy_draft_ends_where_the_drafting_model_is_unsure(models: dict[str, Path]) -> None:
    """It drafts fewer tokens, and more of them are accepted. Requests that sample get drafts too."""
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    shares = []
    for least in (0, 0.5, 0.9):
        config = {"method": "early_exit", "layers": 3, "draft_min_probability": least}
        _, stats = run(models["main"], config, [(text, params) for text in TEXTS[:6]])
        shares.append((stats.acceptance, -stats.draft_tokens))
    assert shares == sorted(shares) and shares[0][1] < shares[1][1] < shares[2][1] < 0
    sampled = SamplingParams(temperature=1.0, seed=1, max_tokens=20, ignore_eos=True)
    _, stats = run(models["main"], config, [(TEXTS[0], sampled)])
    assert stats.draft_tokens > 20


def test_counts_of_what_was_drafted(models: dict[str, Path]) -> None:
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    _, stats = run(models["main"], {"method": "suffix"}, [(TEXTS[0], params)])
    assert sum(stats.draft_lengths.values()) == stats.drafts
    assert sum(length * count for length, count in stats.draft_lengths.items()) == stats.draft_tokens
    assert sum(stats.accepted_at.values()) == stats.accepted_tokens
    assert stats.accepted_at[0] >= stats.accepted_at[4]
    assert stats.draft_seconds > 0 and stats.mean_accepted_length == 1 + stats.accepted_tokens / stats.drafts


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"method": "early_exit", "layers": LAYERS + 1}, "early_exit must be at most 4; got 5"),
        ({"method": "layer_skip", "layers": [0, 4]}, "below 4"),
        ({"model": "nowhere.gguf"}, "speculative_config: model: no model 'nowhere.gguf'"),
        ({"method": "layer_skip", "layers": [2, 1]}, "must ascend"),
        ({"method": "layer_skip", "layers": 2}, "must be a list"),
        ({"method": "layer_skip"}, "octavo tune layers"),
        ({"method": "early_exit"}, "needs layers"),
        ({"method": "heads", "heads": "nowhere.npz"}, "nowhere.npz cannot be read"),
    ],
)
def test_what_does_not_fit_the_model(
    models: dict[str, Path], config: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        LLM(models["main"], speculative_config=config, max_model_len=64)


def test_a_draft_model_must_have_the_vocabulary(models: dict[str, Path], tmp_path: Path) -> None:
    other = write_tiny_gguf(tmp_path / "odd.gguf", Tiny(vocab=300))
    with pytest.raises(ConfigError, match="must have the vocabulary"):
        LLM(models["main"], speculative_config={"model": str(other)}, max_model_len=64)


def test_tuned_layers_are_found(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path))
    path = tuned_path(str(models["main"]))
    path.parent.mkdir(parents=True)
    greedy = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    for speedup in (0.8, 1.2):
        path.write_text(json.dumps({"layers": [0, 3], "num_layers": LAYERS, "expected_speedup": speedup}))
        _, stats = run(models["main"], {"method": "layer_skip", "draft_min_probability": 0}, [(TEXTS[0], greedy)])
        assert stats.draft_tokens > 0
        with LLM(models["main"], speculative_config={"method": "auto"}, max_model_len=64) as llm:
            assert ("layer_skip" in methods_of(llm)) == (speedup > 1), "auto takes what promises to pay"


def methods_of(llm: LLM) -> list[str]:
    proposer = llm.parts.engine._proposer
    assert isinstance(proposer, Controller)
    return [method.drafter.name for method in proposer._methods]


@pytest.fixture(scope="module")
def edit() -> Iterator[str]:
    code = "".join(f"def part_{i}(x):\n    return x * {i} + offset_{i}\n\n\n" for i in range(4))
    yield f"Repeat this file exactly:\n\n{code}\n\nHere it is:\n\n{code[:30]}"


def test_smollm2_copies_faster_with_ngrams(edit: str) -> None:
    model = model_path("smollm2-135m")
    greedy = SamplingParams(temperature=0, max_tokens=40)
    plain, before = run(model, None, [(edit, greedy)], max_model_len=512)
    fast, after = run(model, {"method": "ngram"}, [(edit, greedy)], max_model_len=512)
    assert fast == plain
    assert after.steps < before.steps / 2


def test_smollm2_as_its_own_draft(edit: str) -> None:
    model = model_path("smollm2-135m")
    greedy = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    plain, _ = run(model, None, [(edit, greedy)], max_model_len=512)
    fast, stats = run(model, {"model": str(model)}, [(edit, greedy)], max_model_len=512)
    assert fast == plain
    assert stats.accepted_tokens == stats.draft_tokens > 0
