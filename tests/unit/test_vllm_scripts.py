"""What scripts for vLLM do: constructor arguments, parameters that change, prompt types, the tokenizer's methods."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octavo import (
    LLM,
    CapacityError,
    ConfigError,
    OctavoError,
    RequestError,
    SamplingParams,
    StructuredOutputsParams,
    TextPrompt,
    TokensPrompt,
)
from octavo.assembly import vllm_settings
from octavo.assembly.engine import engine_config
from tests.tiny import CHAT_TEMPLATE, Tiny, write_tiny_gguf

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


@pytest.mark.parametrize("name", vllm_settings.FIXED)
def test_arguments_that_would_matter_are_refused(name: str) -> None:
    values, reason = vllm_settings.FIXED[name]
    for value in values:
        engine_config(**{name: value})
    with pytest.raises(ConfigError, match=f"^{name} must be .*{re.escape(reason)}"):
        engine_config(**{name: "something else"})


def test_a_script_for_vllm_runs(path: Path, named: None) -> None:
    options: dict[str, Any] = {"enforce_eager": True, "dtype": "half", "max_num_seqs": 4, "runner": "generate"}
    with LLM(model=path, tokenizer=None, gpu_memory_utilization=0.5, max_model_len=64, seed=0, **options) as llm:
        assert len(llm.generate(["a", "b"], FEW, use_tqdm=False)) == 2


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


# Prompts


def test_prompt_types(llm: LLM) -> None:
    ids = llm.get_tokenizer().encode("the rate")
    prompts = [TextPrompt(prompt="the rate"), TokensPrompt(prompt_token_ids=ids), "the rate", ids]
    assert len({output.outputs[0].text for output in llm.generate(prompts, FEW)}) == 1  # type: ignore[arg-type]


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


# The tokenizer


def test_the_tokenizers_methods_are_those_of_transformers(llm: LLM) -> None:
    tokenizer = llm.get_tokenizer()
    ids = tokenizer.encode("the rate", add_special_tokens=False)
    assert tokenizer("the rate").input_ids == tokenizer("the rate")["input_ids"] == ids
    assert tokenizer(["a", "the rate"]).input_ids[1] == ids
    assert tokenizer("the rate", truncation=True, max_length=2).attention_mask == [1, 1]
    assert tokenizer.decode(ids) == "the rate" and tokenizer.batch_decode([ids, ids[:1]])[0] == "the rate"
    end = tokenizer.eos_token_id
    assert end is not None and tokenizer.eos_token == "<|im_end|>" == tokenizer.decode(end)
    assert tokenizer.decode([*ids, end], skip_special_tokens=True) == "the rate"
    assert tokenizer.decode([*ids, end]) == "the rate<|im_end|>"
    assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize("the rate")) == ids
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == end and end in tokenizer.all_special_ids
    assert len(tokenizer) == tokenizer.vocab_size == 320 and tokenizer.chat_template == CHAT_TEMPLATE


def test_the_tokenizer_renders_chats(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hi"}]
    tokenizer = llm.get_tokenizer()
    shown = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert shown == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert ids == tokenizer.encode(shown, add_special_tokens=False)
    assert llm.generate(TokensPrompt(prompt_token_ids=ids), FEW)[0].outputs[0].text == (
        llm.chat(messages, FEW)[0].outputs[0].text  # type: ignore[arg-type]
    )
    short = tokenizer.apply_chat_template(messages, return_dict=True)
    assert ids[: len(short.input_ids)] == short.input_ids != ids
