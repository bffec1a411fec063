"""AsyncLLM: outputs of every kind, abort, and errors, with a real engine process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from octavo import (
    LLM,
    AsyncEngineArgs,
    AsyncLLM,
    CapacityError,
    ConfigError,
    EngineError,
    ModelFileError,
    RequestError,
    RequestOutput,
    RequestOutputKind,
    SamplingParams,
)
from tests.tiny import write_base

SETTINGS: dict[str, Any] = {"max_model_len": 256, "threads": 1}
PARAMS = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)


def with_llm(model: Path, work: Callable[[AsyncLLM], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with AsyncLLM(model, **SETTINGS) as llm:
            return await work(llm)

    return asyncio.run(run())


def of_kind(kind: RequestOutputKind, **more: Any) -> SamplingParams:
    params = PARAMS.clone()
    params.output_kind = kind
    for name, value in more.items():
        setattr(params, name, value)
    return params


async def read(llm: AsyncLLM, prompt: Any, params: Any, **more: Any) -> list[RequestOutput]:
    return [output async for output in llm.generate(prompt, params, **more)]


def test_every_kind_of_output_is_the_answer_of_llm(tiny_model: Path) -> None:
    sampled = {"n": 2, "temperature": 1.0, "seed": 5, "logprobs": 1}

    async def work(llm: AsyncLLM) -> None:
        prompts = ["the rate", "in short", [5, 6, 7]]
        (whole, delta), final = (
            [await read(llm, "the rate", of_kind(kind, **sampled)) for kind in list(RequestOutputKind)[:2]],
            await read(llm, "the rate", of_kind(RequestOutputKind.FINAL_ONLY, **sampled)),
        )
        expected = LLM(tiny_model, **SETTINGS).generate("the rate", of_kind(RequestOutputKind.CUMULATIVE, **sampled))
        answers = expected[0].outputs
        assert whole[-1].outputs == final[0].outputs == answers and len(final) == 1 < len(whole)
        assert [output.finished for output in whole] == [False] * (len(whole) - 1) + [True]
        for before, after in itertools.pairwise(whole):
            for old, new in zip(before.outputs, after.outputs, strict=True):
                assert new.text.startswith(old.text) and new.token_ids[: len(old.token_ids)] == old.token_ids
        for index, answer in enumerate(answers):
            parts = [part for output in delta for part in output.outputs if part.index == index]
            assert "".join(part.text for part in parts) == answer.text and len(parts) > 2
            assert [token for part in parts for token in part.token_ids] == answer.token_ids
            assert [entry for part in parts for entry in part.logprobs or ()] == answer.logprobs
            assert parts[-1].finish_reason == "length"
        together = await asyncio.gather(*(read(llm, prompt, PARAMS) for prompt in prompts))
        alone = [await read(llm, prompt, PARAMS) for prompt in prompts]
        assert [each[-1].outputs for each in together] == [each[-1].outputs for each in alone]
        tokenizer = await llm.get_tokenizer()
        assert tokenizer.decode(alone[2][-1].prompt_token_ids) == tokenizer.decode([5, 6, 7])

    with_llm(tiny_model, work)


def test_abort(tiny_model: Path) -> None:
    async def work(llm: AsyncLLM) -> None:
        long = of_kind(RequestOutputKind.CUMULATIVE, max_tokens=200)
        outputs: list[RequestOutput] = []
        async for output in llm.generate("the rate", long, "mine"):
            outputs.append(output)
            if len(outputs) == 1:
                with pytest.raises(RequestError, match="mine"):
                    await read(llm, "x", PARAMS, request_id="mine")
                await llm.abort(["mine", "unknown"])
        assert outputs[-1].finished and outputs[-1].outputs[0].finish_reason == "abort"
        assert 0 < len(outputs[-1].outputs[0].token_ids) < 200
        stream = llm.generate("the rate", long, "mine")
        await anext_(stream)
        await stream.aclose()  # closing aborts too
        assert (await read(llm, "x", PARAMS, request_id="mine"))[-1].outputs[0].finish_reason == "length"
        assert llm.client is not None and llm.client.in_flight == 0

    with_llm(tiny_model, work)


async def anext_(stream: Any) -> Any:
    return await stream.__anext__()


def test_errors_are_those_of_llm(tiny_model: Path) -> None:
    async def work(llm: AsyncLLM) -> None:
        for prompt, params, error, text in [
            ("", PARAMS, RequestError, "empty"),
            ("w" * 500, PARAMS, CapacityError, "max_model_len"),
            ("a", SamplingParams(temperature=-1), RequestError, "temperature"),
            ("a", of_kind(RequestOutputKind.DELTA, stop_token_ids=[9999]), RequestError, "stop_token_ids"),
        ]:
            with pytest.raises(error, match=text):
                await read(llm, prompt, params)
        more: dict[str, tuple[Any, str]] = {
            "lora_request": ("x", "^lora_request is not supported"),
            "trace_headers": ({"traceparent": "0"}, "^trace_headers is not supported"),
            "priority": ("first", r"^priority\[0\] must be an integer"),
        }
        for name, (value, text) in more.items():
            with pytest.raises(RequestError, match=text):
                await read(llm, "a", PARAMS, **{name: value})
        for wrong in (5, [5], {"max_tokens": 3}):
            with pytest.raises(RequestError, match=r"^sampling_params must be SamplingParams, not (int|dict)"):
                await read(llm, "a", wrong)
        with pytest.raises(RequestError, match="deadline"):
            await read(llm, "a", of_kind(RequestOutputKind.DELTA, max_tokens=200), timeout=0.001)
        stream = llm.generate("a", of_kind(RequestOutputKind.DELTA, max_tokens=200))
        await anext_(stream)
        assert llm.supervisor._process is not None
        llm.supervisor._process.kill()
        with pytest.raises(EngineError, match="engine process failed"):
            while True:
                await anext_(stream)
        assert (await read(llm, "a", PARAMS))[-1].finished, "it is restarted"
        llm.shutdown()

    with_llm(tiny_model, work)


def test_a_model_without_a_head_generates_nothing(tmp_path: Path) -> None:
    async def work(llm: AsyncLLM) -> None:
        with pytest.raises(RequestError, match="embeds texts and generates none"):
            await read(llm, "a", PARAMS)
        tokenizer = await llm.get_tokenizer()
        assert (tokenizer.name_or_path, tokenizer.model_max_length) == (str(tmp_path / "base"), llm.info.max_model_len)

    with_llm(write_base(tmp_path / "base"), work)


def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    for name in ("bad.gguf", "missing.gguf"):
        with pytest.raises(ModelFileError, match=name):
            with_llm(tmp_path / name, lambda llm: llm.check_health())
    with pytest.raises(ConfigError, match="max_model_len"):
        AsyncLLM(tmp_path, max_model_len=0)


def test_vllms_engine_args(tiny_model: Path) -> None:
    args = AsyncEngineArgs(model=tiny_model, enforce_eager=True, **SETTINGS)

    async def work() -> str:
        llm = AsyncLLM.from_engine_args(args)
        try:
            return (await read(llm, "the", PARAMS))[-1].outputs[0].text
        finally:
            llm.shutdown()

    assert asyncio.run(work()) == LLM(tiny_model, **SETTINGS).generate("the", PARAMS)[0].outputs[0].text
