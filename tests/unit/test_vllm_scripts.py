"""What scripts for vLLM do: constructor arguments, parameters that change, prompt types."""

from __future__ import annotations

import copy
import dataclasses
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octavo import (
    LLM,
    AsyncLLM,
    BeamSearchParams,
    CapacityError,
    ConfigError,
    EngineConfig,
    OctavoError,
    PoolingParams,
    RequestError,
    SamplingParams,
    StructuredOutputsParams,
    TextPrompt,
    TokensPrompt,
    unsupported,
)
from octavo.assembly import vllm_settings
from octavo.assembly.engine import engine_config
from tests.tiny import Tiny, write_tiny_gguf

FEW = SamplingParams(temperature=0, max_tokens=4)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", Tiny())


@pytest.fixture(scope="module")
def llm(path: Path) -> Iterator[LLM]:
    with LLM(path, max_model_len=128, threads=1) as llm:
        yield llm


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_settings, "_named", set())


def text(llm: LLM, prompt: Any, params: SamplingParams = FEW) -> str:
    return llm.generate(prompt, params)[0].outputs[0].text


# Constructor arguments


def test_arguments_without_effect_are_named_once(named: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    given = {"cuda_graphs": "off", "dtype": "bfloat16", "swap_space": 4, "trust_remote_code": True}
    given |= {"disable_log_stats": True, "tokenizer_mode": "auto", "load_format": "gguf", "revision": "main"}
    given |= {"max_logprobs": 5, "gpu_memory_utilization": 0.9}
    assert engine_config(**given) == engine_config()
    engine_config(**given)
    (line,) = caplog.messages
    assert all(name in line for name in given.keys() - {"tokenizer_mode"}) and "tokenizer_mode" not in line
    engine_config(swap_space=4, code_revision="main")
    assert caplog.messages[1:] == ["these settings change nothing here: code_revision"]


def test_neutral_values_need_no_line(named: None, caplog: pytest.LogCaptureFixture) -> None:
    assert engine_config(dtype="auto", quantization=None, tensor_parallel_size=1, trust_remote_code=False)
    assert not caplog.messages


def test_arguments_with_another_name_are_mapped() -> None:
    made = engine_config(num_gpu_blocks_override=7, scheduling_policy="fcfs", kv_cache_dtype="bfloat16")
    assert (made.num_kv_blocks, made.policy, made.kv_cache_dtype) == (7, "fcfs", "bf16")
    assert engine_config(kv_cache_memory_bytes=1 << 20).kv_cache_memory == 1 << 20
    with pytest.raises(ConfigError, match="the same setting"):
        engine_config(num_gpu_blocks_override=7, num_kv_blocks=7)


@pytest.mark.parametrize("name", vllm_settings.VALUES)
def test_arguments_that_would_matter_are_refused(name: str) -> None:
    values, reason = vllm_settings.VALUES[name]
    for value in values:
        engine_config(**{name: value})
    with pytest.raises(ConfigError, match=f"^{name} must be .*{re.escape(reason)}"):
        engine_config(**{name: "something else"})


def test_a_script_for_vllm_runs(path: Path, named: None) -> None:
    options: dict[str, Any] = {"enforce_eager": True, "dtype": "half", "max_num_seqs": 4, "runner": "generate"}
    with LLM(model=path, tokenizer=None, gpu_memory_utilization=0.5, max_model_len=64, seed=0, **options) as llm:
        assert len(llm.generate(["a", "b"], FEW, use_tqdm=False)) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("load_format", "dummy"), ("dtype", "int99"), ("tokenizer_mode", "mistral"), ("config_format", "x"), ("task", 1)],
)
def test_unknown_values_of_enumerated_arguments_are_refused(name: str, value: Any) -> None:
    allowed = ".*".join(re.escape(repr(each)) for each in vllm_settings.VALUES[name][0])
    with pytest.raises(ConfigError, match=f"^{name} must be {allowed}: .*; got {value!r}"):
        engine_config(**{name: value})


def test_types_of_torch_name_a_dtype() -> None:
    bfloat16, int8 = (type("dtype", (), {"__module__": "torch", "__str__": lambda self, n=n: n})() for n in TORCH)
    assert engine_config(dtype=bfloat16) == engine_config()
    with pytest.raises(ConfigError, match=r"^dtype must be"):
        engine_config(dtype=int8)


TORCH = ("torch.bfloat16", "torch.int8")


def test_none_means_the_default() -> None:
    ours = [field.name for field in dataclasses.fields(EngineConfig) if field.name != "backend_options"]
    assert engine_config(**dict.fromkeys(ours)) == engine_config()


@pytest.mark.parametrize("name", ["enable_prefix_caching", "enable_chunked_prefill", "async_scheduling"])
def test_flags_are_true_or_false(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be True or False; got 'yes'"):
        engine_config(**{name: "yes"})


def test_what_would_choose_another_download_is_refused(path: Path) -> None:
    for kind in (LLM, AsyncLLM):
        for name, (values, reason) in vllm_settings.DOWNLOADS.items():
            assert engine_config(**{name: values[0]})
            with pytest.raises(ConfigError, match=f"^{name} must be .*{re.escape(reason)}; got 'v2'"):
                kind("hf:org/repo", **{name: "v2"})
    assert AsyncLLM(path, revision="v2"), "of a local file it asks for nothing"


# Sampling parameters


def test_parameters_can_be_changed_and_cloned(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=2, logit_bias={5: 1.0})
    other = params.clone()
    other.max_tokens, other.stop = 4, ["never"]
    other.logit_bias[6] = -1.0  # type: ignore[index]
    assert (params.max_tokens, params.stop, params.logit_bias) == (2, (), {5: 1.0})
    assert copy.deepcopy(other) == other != params
    assert [len(llm.generate("a", each)[0].outputs[0].token_ids) for each in (params, other)] == [2, 4]


def test_a_running_request_keeps_its_parameters(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=4, logit_bias={})
    expected = text(llm, "the", params)
    stream = llm.stream("the", params)
    first = next(stream)
    params.max_tokens, params.temperature = 1, 5.0
    params.logit_bias[first.token_ids[0]] = 100.0  # type: ignore[index]
    assert first.text + "".join(delta.text for delta in stream) == expected


def test_structured_outputs_have_vllms_name(llm: LLM) -> None:
    params = SamplingParams(max_tokens=8, structured_outputs=StructuredOutputsParams(choice=["yes", "no"]))  # type: ignore[arg-type]
    assert text(llm, "a", params) in ("yes", "no")


def test_a_prompt_is_cut_on_the_left(llm: LLM) -> None:
    cut = SamplingParams(temperature=0, max_tokens=4, truncate_prompt_tokens=3)
    output = llm.generate("w" * 500 + "xyz", cut)[0]
    assert output.prompt_token_ids == llm.get_tokenizer().encode("xyz")
    assert output.outputs[0].text == text(llm, "xyz")


@pytest.mark.parametrize(("max_tokens", "left"), [(4, 124), (None, 127), (0, 128), (127, 1)])
def test_a_prompt_is_cut_to_what_the_context_holds(llm: LLM, max_tokens: int | None, left: int) -> None:
    cut = SamplingParams(temperature=0, max_tokens=max_tokens, prompt_logprobs=0, truncate_prompt_tokens=-1)
    ids = llm.get_tokenizer().encode("w" * 500 + "xyz")
    assert llm.generate("w" * 500 + "xyz", cut)[0].prompt_token_ids == ids[-left:]
    assert llm.generate("xyz", cut)[0].prompt_token_ids == ids[-min(left, 3) :]
    with pytest.raises(CapacityError, match="lower max_tokens"):
        llm.generate("xyz", SamplingParams(max_tokens=128, truncate_prompt_tokens=-1))


@pytest.mark.parametrize(
    ("field", "value"),
    [("truncate_prompt_tokens", 0), ("output_kind", 1), ("spaces_between_special_tokens", None)],
)
def test_bad_parameters_are_named(llm: LLM, field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=field):
        llm.generate("a", SamplingParams(**{field: value}))


def test_text_is_left_out_on_request(llm: LLM) -> None:
    (full,) = llm.generate("the", FEW)[0].outputs
    (bare,) = llm.generate("the", SamplingParams(temperature=0, max_tokens=4, detokenize=False))[0].outputs
    assert (bare.text, bare.token_ids, bare.finish_reason) == ("", full.token_ids, full.finish_reason) and full.text
    assert "".join(delta.text for delta in llm.stream("the", SamplingParams(max_tokens=4, detokenize=False))) == ""
    with pytest.raises(RequestError, match=r"^detokenize must be True, because stop strings"):
        llm.generate("the", SamplingParams(detokenize=False, stop="x"))


def test_the_lowest_priority_goes_first(path: Path) -> None:
    with LLM(path, max_model_len=64, threads=1, max_num_seqs=1) as narrow:

        def order(**more: Any) -> list[int]:
            outputs = narrow.generate(["a", "b", "c"], FEW, **more)
            starts = [output.metrics.first_scheduled_time or 0 for output in outputs]
            return sorted(range(3), key=lambda i: starts[i])

        assert order() == order(priority=None) == order(priority=5) == [0, 1, 2]
        assert order(priority=[2, 1, 0]) == [2, 1, 0]
        good = [{"role": "user", "content": "hi"}]
        late, early = narrow.chat([good, good], FEW, priority=[1, -1])  # type: ignore[list-item]
        assert (early.metrics.first_scheduled_time or 0) < (late.metrics.first_scheduled_time or 0)
        assert narrow.embed(["a", "b"], priority=[1, 0]) and list(narrow.stream("a", FEW, priority=3))
        for bad, problem in (
            ([1], "2 prompts but 1 prior"),
            ([0, 1.5], r"priority\[1\] must"),
            ("x", "must be an int"),
        ):
            with pytest.raises(RequestError, match=problem):
                narrow.generate(["a", "b"], FEW, priority=bad)  # type: ignore[arg-type]
    with LLM(path, max_model_len=64, threads=1, scheduling_policy="fcfs") as fair:
        assert fair.generate("a", FEW, priority=0)
        with pytest.raises(RequestError, match=r"^priority needs .* policy='priority'; this one has 'fcfs'"):
            fair.generate("a", FEW, priority=1)


def test_pooling_parameters_have_vllms_form(llm: LLM) -> None:
    def vector(**more: Any) -> list[float]:
        return llm.embed("the rate", **more)[0].outputs.embedding

    for given in ({"pooling": PoolingParams(dimensions=8)}, {"pooling_params": PoolingParams(dimensions=8)}):
        assert vector(**given) == vector(dimensions=8) != vector()  # type: ignore[arg-type]
    raw = vector(pooling_params=PoolingParams(normalize=False, pooling="last"))
    assert raw == llm.encode("the rate", "last")[0].outputs.data.tolist() != vector(pooling="last")
    last, short = llm.get_tokenizer().encode("the rate")[-1:], PoolingParams(truncate_prompt_tokens=1)
    assert vector(pooling_params=short) == llm.embed([last])[0].outputs.embedding
    assert llm.score("the rate", [last], pooling_params=short)[0].outputs.score == pytest.approx(1)
    longest = PoolingParams(truncate_prompt_tokens=-1)
    assert len(llm.encode("a" * 500, pooling_params=longest)[0].prompt_token_ids) == 128
    for wrong, problem in (
        (PoolingParams(dimensions=65), "^dimensions must be from 1 to 64"),
        (PoolingParams(dimensions=True), "^dimensions must be from 1 to 64"),
        (PoolingParams(normalize=1), "^normalize must be True, False or None"),  # type: ignore[arg-type]
        (PoolingParams(pooling="max"), "^pooling 'max' is not supported"),
        (PoolingParams(truncate_prompt_tokens=0), "^truncate_prompt_tokens must be"),
        (FEW, "^pooling_params must be PoolingParams, not SamplingParams"),
        ([PoolingParams()], "^pooling_params must be PoolingParams, not list"),
    ):
        with pytest.raises(RequestError, match=problem):
            llm.embed("a", pooling_params=wrong)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"^pooling 5 is not supported"):
        llm.embed("a", 5)  # type: ignore[arg-type]


def test_beam_search_takes_its_own_parameters(llm: LLM) -> None:
    for wrong in (5, None, FEW):
        with pytest.raises(RequestError, match=f"^params must be BeamSearchParams, not {type(wrong).__name__}"):
            llm.beam_search(["a"], wrong)  # type: ignore[arg-type]
    (found,) = llm.beam_search([{"prompt": "a"}], BeamSearchParams(beam_width=2, max_tokens=2))
    assert len(found.sequences) == 2


def test_default_parameters_can_be_changed(llm: LLM) -> None:
    params = llm.get_default_sampling_params()
    assert params == SamplingParams()
    params.max_tokens = 2
    assert llm.get_default_sampling_params() == SamplingParams()


@pytest.mark.parametrize("name", unsupported.METHODS)
def test_methods_that_do_not_exist_say_why(llm: LLM, name: str) -> None:
    with pytest.raises(AttributeError, match=f"^LLM has no '{name}': {re.escape(unsupported.METHODS[name])}$"):
        getattr(llm, name)
    assert not hasattr(llm, name) and not hasattr(llm, "no_such_thing")


# Prompts


def test_prompt_types(llm: LLM) -> None:
    ids = llm.get_tokenizer().encode("the rate")
    prompts = [TextPrompt(prompt="the rate"), TokensPrompt(prompt_token_ids=ids), "the rate", ids]
    assert len({output.outputs[0].text for output in llm.generate(prompts, FEW)}) == 1  # type: ignore[arg-type]


def test_prompts_may_come_in_a_tuple(llm: LLM) -> None:
    assert [output.prompt for output in llm.generate(("a", "b"), FEW)] == ["a", "b"]


def test_a_prompts_further_fields_may_ask_for_nothing(llm: LLM) -> None:
    for name, (_, neutral) in unsupported.PROMPT.items():
        assert text(llm, {"prompt": "a", **{name: neutral[0] if neutral else None}}) == text(llm, "a")
        with pytest.raises(RequestError, match=f"^{name} is not supported: "):
            llm.generate({"prompt": "a", name: "something"}, FEW)


@pytest.mark.parametrize("bad", [5, None, {"text": "a"}, [5.0]])
def test_what_is_no_prompt_is_refused(llm: LLM, bad: Any) -> None:
    calls = (llm.generate, llm.embed, llm.encode, lambda bad: list(llm.stream(bad)), lambda bad: llm.score(bad, bad))
    for call in calls:
        with pytest.raises(RequestError, match="a prompt must be a string"):
            call(bad)


@pytest.mark.parametrize(
    ("bad", "error"),
    [("", RequestError), ([999_999], RequestError), (None, RequestError), ("w" * 500, CapacityError)],
)
def test_one_bad_prompt_among_many_is_named(llm: LLM, bad: Any, error: type[OctavoError]) -> None:
    for ask in (lambda prompts: llm.generate(prompts, FEW), llm.embed):
        with pytest.raises(error, match=r"^prompts\[2\]: "):
            ask(["a", "b", bad, "c"])
        if bad is not None:
            with pytest.raises(error, match=r"^(?!prompts)"):
                ask([bad] if isinstance(bad, list) else bad)
    assert text(llm, "a"), "the other prompts were taken back"


def test_the_bad_text_or_parameters_are_named(llm: LLM) -> None:
    with pytest.raises(RequestError, match=r"^text_2\[1\]: "):
        llm.score("a", ["b", "", "c"])
    with pytest.raises(RequestError, match=r"^sampling_params\[1\]: temperature"):
        llm.generate(["a", "b"], [FEW, SamplingParams(temperature=-1)])


@pytest.mark.parametrize("bad", [5, "hi", None, {"role": "user", "content": "hi"}])
def test_what_is_no_conversation_is_refused(llm: LLM, bad: Any) -> None:
    with pytest.raises(RequestError, match=f"^messages must be a list of messages .*; got {type(bad).__name__}"):
        llm.chat(bad, FEW)
    with pytest.raises(RequestError, match=r"^messages\[1\]: "):
        llm.chat([[{"role": "user", "content": "hi"}], bad], FEW)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chat_template", 5),
        ("chat_template_kwargs", 5),
        ("add_generation_prompt", "no"),
        ("continue_final_message", 1),
        ("enable_thinking", "no"),
    ],
)
def test_bad_arguments_of_chat_are_named(llm: LLM, name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"^{name} must be "):
        llm.chat([{"role": "user", "content": "hi"}], FEW, **{name: value})


@pytest.mark.parametrize("bad", [[], [{"content": "no role"}], [{"role": "user", "content": "w" * 9000}]])
def test_one_bad_conversation_among_many_is_named(llm: LLM, bad: Any) -> None:
    good = [{"role": "user", "content": "hi"}]
    with pytest.raises(OctavoError, match=r"^(messages|prompts)\[1\]: "):
        llm.chat([good, bad, good], FEW)
    with pytest.raises(OctavoError, match=r"^(?!prompts|messages\[1\])"):
        llm.chat(bad, FEW)


def test_tools_that_are_no_objects_are_named(llm: LLM) -> None:
    tools: Any = ["x"]
    with pytest.raises(RequestError, match=r"^tools\[0\] must be an object in OpenAI's form; got 'x'"):
        llm.chat([{"role": "user", "content": "hi"}], FEW, tools=tools)
    with pytest.raises(RequestError, match=r"^tools must be a list of objects in OpenAI's form; got dict"):
        llm.chat([{"role": "user", "content": "hi"}], FEW, tools={"type": "function"})  # type: ignore[arg-type]
