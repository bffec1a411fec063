"""Arguments of vLLM that are not honoured: accepted where they ask for nothing, else refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from octavo import (
    LLM,
    BeamSearchParams,
    PoolingParams,
    RequestError,
    SamplingParams,
    StructuredOutputsParams,
    unsupported,
)
from octavo.sampling_params import StructuredOutputs
from octavo.unsupported import Reasons
from tests.tiny import Tiny, write_tiny_gguf

FEW = SamplingParams(temperature=0, max_tokens=2)
HI: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", Tiny())
    with LLM(path, max_model_len=64, threads=1) as llm:
        yield llm


def each(reasons: Reasons) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", reasons)


CLASSES: list[tuple[Callable[..., Any], Reasons]] = [
    (SamplingParams, unsupported.SAMPLING),
    (PoolingParams, unsupported.POOLING),
    (lambda **fields: StructuredOutputs(regex="a", **fields), unsupported.STRUCTURED),
    (lambda **fields: BeamSearchParams(2, 2, **fields), unsupported.BEAMS),
]


@pytest.mark.parametrize(
    ("make", "reasons", "name"),
    [pytest.param(make, reasons, name, id=name) for make, reasons in CLASSES for name in reasons],
)
def test_fields_of_vllm(make: Callable[..., Any], reasons: Reasons, name: str) -> None:
    reason, neutral = reasons[name]
    for value in (None, *neutral):
        assert make(**{name: value}) == make()
    with pytest.raises(RequestError, match=f"^{name} is not supported: ") as caught:
        make(**{name: "something"})
    assert caught.value.field == name and reason in str(caught.value)


def test_an_unknown_field_is_pythons_own_error() -> None:
    for make in (SamplingParams, PoolingParams, StructuredOutputsParams, BeamSearchParams):
        with pytest.raises(TypeError, match="unexpected keyword argument 'nothing'"):
            make(nothing=1)


METHODS: dict[str, tuple[Callable[..., Any], Reasons]] = {
    "generate": (lambda llm, **more: llm.generate("a", FEW, **more), unsupported.GENERATE),
    "stream": (lambda llm, **more: list(llm.stream("a", FEW, **more)), unsupported.GENERATE),
    "chat": (lambda llm, **more: llm.chat(HI, FEW, **more), unsupported.CHAT),
    "encode": (lambda llm, **more: llm.encode("a", **more), unsupported.POOL),
    "embed": (lambda llm, **more: llm.embed("a", **more), unsupported.POOL),
    "score": (lambda llm, **more: llm.score("a", "b", **more), unsupported.SCORE),
    "beam_search": (lambda llm, **more: llm.beam_search("a", BeamSearchParams(2, 2), **more), unsupported.BEAM_SEARCH),
}


@pytest.mark.parametrize("method", METHODS)
def test_arguments_of_vllms_methods(llm: LLM, method: str) -> None:
    call, reasons = METHODS[method]
    nothing = {name: neutral[0] if neutral else None for name, (_, neutral) in reasons.items()}
    assert call(llm, **nothing) and call(llm, lora_request=[None])
    for name, (reason, _) in reasons.items():
        with pytest.raises(RequestError, match=f"^{name} is not supported: ") as caught:
            call(llm, **{name: "something"})
        assert caught.value.field == name and reason in str(caught.value)
    with pytest.raises(TypeError, match=f"{method}.* got an unexpected keyword argument 'nothing'"):
        call(llm, nothing=None)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "stream"])
def test_every_method_takes_use_tqdm(llm: LLM, method: str) -> None:
    call, _ = METHODS[method]
    assert call(llm, use_tqdm=False) and call(llm, use_tqdm=True)
    with pytest.raises(RequestError, match=r"^use_tqdm must be True or False; got 'yes'"):
        call(llm, use_tqdm="yes")
