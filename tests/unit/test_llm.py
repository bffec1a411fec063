"""`LLM` on a tiny model with the reference backend: every kind of call, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo import LLM, BeamSearchParams, SamplingParams
from octavo.errors import CapacityError, ConfigError, ModelFileError, OctavoError, RequestError, TokenizerError
from octavo.types import Batch, StepResult
from tests.tiny import Tiny, write_tiny_gguf, write_tiny_hf

GREEDY = SamplingParams(temperature=0.0, max_tokens=12)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("llm") / "tiny.gguf")


def load(path: Path, **settings: Any) -> LLM:
    return LLM(path, **({"backend": "reference", "max_model_len": 128, "block_size": 4} | settings))


@pytest.fixture(scope="module")
def llm(path: Path) -> Iterator[LLM]:
    with load(path) as made:
        yield made


def ids(llm: LLM, prompt: Any, params: SamplingParams = GREEDY) -> list[list[int]]:
    return [answer.token_ids for answer in llm.generate(prompt, params)[0].outputs]


def test_every_form_of_a_prompt_gives_the_same_answer(llm: LLM):
    tokens = llm.get_tokenizer().encode("hello there")
    forms: list[Any] = ["hello there", tokens, {"prompt": "hello there"}, {"prompt_token_ids": tokens}]
    alone = [llm.generate(form, GREEDY)[0] for form in forms]
    together = llm.generate(forms, GREEDY)
    assert len({tuple(output.outputs[0].token_ids) for output in [*alone, *together]}) == 1
    assert [output.prompt for output in together] == ["hello there", None, "hello there", None]
    assert all(output.prompt_token_ids == tokens and output.finished for output in together)
    assert len(together[0].outputs[0].token_ids) == 12


def test_text_is_the_decoded_ids(llm: LLM):
    (output,) = llm.generate("hello", SamplingParams(temperature=0.7, seed=1, max_tokens=30, ignore_eos=True))
    answer = output.outputs[0]
    assert answer.text == llm.get_tokenizer().decode(answer.token_ids, skip_special_tokens=True)
    assert answer.finish_reason == "length"


def test_no_prompts_give_no_outputs(llm: LLM):
    assert llm.generate([]) == []


def test_each_prompt_may_have_its_own_parameters(llm: LLM):
    params = [SamplingParams(max_tokens=n, temperature=0.0, ignore_eos=True) for n in (1, 5, 3)]
    outputs = llm.generate(["a", "b", "c"], params)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [1, 5, 3]
    with pytest.raises(RequestError, match="3 prompts but 2 sampling_params"):
        llm.generate(["a", "b", "c"], params[:2])


def test_a_seed_fixes_the_answer_whatever_else_runs(llm: LLM):
    seeded = SamplingParams(seed=5, max_tokens=10, n=3)
    alone = ids(llm, "once", seeded)
    assert len({tuple(answer) for answer in alone}) > 1
    noise = [SamplingParams(max_tokens=7)] * 6
    busy = llm.generate(["x", "once", "y", "z", "once upon", "w", "v"], [*noise[:1], seeded, *noise[1:]])
    assert [answer.token_ids for answer in busy[1].outputs] == alone


def test_unseeded_answers_follow_from_the_engines_seed(path: Path):
    def answers(seed: int) -> list[list[int]]:
        with load(path, seed=seed) as fresh:
            return [output.outputs[0].token_ids for output in fresh.generate(["a"] * 4, SamplingParams(max_tokens=8))]

    first = answers(1)
    assert first == answers(1) != answers(2)
    assert len({tuple(answer) for answer in first}) > 1


def test_a_stop_string_ends_the_answer_and_the_engines_work(llm: LLM):
    free = llm.generate("hello", SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True))[0].outputs[0]
    stop = free.text[5:8]
    params = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True, stop=(stop,))
    answer = llm.generate("hello", params)[0].outputs[0]
    assert answer.text == free.text[: free.text.index(stop)]
    assert (answer.finish_reason, answer.stop_reason) == ("stop", stop)
    assert not llm.parts.engine.has_work


def test_logprobs_are_of_the_models_own_distribution(llm: LLM):
    """The logprobs of an answer, whatever its sampling, equal those of prompt and answer scored as a prompt."""
    params = SamplingParams(temperature=1.5, top_k=3, seed=2, max_tokens=6, logprobs=2, ignore_eos=True)
    (written,) = llm.generate("hello", params)
    answer = written.outputs[0]
    whole = written.prompt_token_ids + answer.token_ids
    (scored,) = llm.generate([whole], SamplingParams(max_tokens=0, prompt_logprobs=2))
    assert scored.outputs[0].token_ids == [] and scored.outputs[0].finish_reason == "length"
    assert answer.logprobs is not None and scored.prompt_logprobs is not None
    tail = scored.prompt_logprobs[len(written.prompt_token_ids) :]
    for token, mine, theirs in zip(answer.token_ids, answer.logprobs, tail, strict=True):
        assert theirs is not None and next(iter(mine)) == token
        assert mine.keys() == theirs.keys()
        assert mine[token].logprob == pytest.approx(theirs[token].logprob, abs=1e-4)
        assert mine[token].rank == theirs[token].rank
    total = sum(entry[token].logprob for token, entry in zip(answer.token_ids, answer.logprobs, strict=True))
    assert answer.cumulative_logprob == pytest.approx(total)


def test_bad_words_do_not_appear(llm: LLM):
    eager = {"temperature": 0.0, "max_tokens": 5, "logit_bias": dict.fromkeys(llm.get_tokenizer().encode("the"), 50.0)}
    assert llm.get_tokenizer().encode("the")[0] in ids(llm, "hello", SamplingParams(**eager))[0]
    (without,) = ids(llm, "hello", SamplingParams(**eager, bad_words=("th", "e")))
    assert not {*llm.get_tokenizer().encode("th"), *llm.get_tokenizer().encode("e")} & set(without)


def test_allowed_tokens_are_the_only_ones(llm: LLM):
    params = SamplingParams(max_tokens=20, allowed_token_ids=(3, 40, 300), seed=0)
    assert set(ids(llm, "hello", params)[0]) <= {3, 40, 300}


def test_a_stream_adds_up_to_the_answer(llm: LLM):
    whole = llm.generate("hello", GREEDY)[0]
    stream = llm.stream("hello", GREEDY)
    deltas = []
    while True:
        try:
            deltas.append(next(stream))
        except StopIteration as end:
            output = end.value
            break
    assert len(deltas) > 3
    assert "".join(delta.text for delta in deltas) == whole.outputs[0].text
    assert output.outputs == whole.outputs and deltas[-1].finish_reason == "length"


def test_streams_read_in_turn_share_batches(llm: LLM):
    steps = llm.parts.engine.stats.steps
    left, right = llm.stream("hello", GREEDY), llm.stream("good", GREEDY)
    pairs = list(zip(left, right, strict=True))
    assert len(pairs) == 12
    assert llm.parts.engine.stats.steps - steps < 20, "24 tokens in fewer steps"
    for index, prompt in enumerate(("hello", "good")):
        assert [token for pair in pairs for token in pair[index].token_ids] == ids(llm, prompt)[0]


def test_a_closed_stream_leaves_nothing_behind(llm: LLM):
    stream = llm.stream("hello", GREEDY)
    next(stream)
    assert llm.parts.engine.has_work
    stream.close()
    assert not llm.parts.engine.has_work
    llm.parts.engine.cache.check_integrity()


def test_chat_is_generate_on_the_rendered_template(llm: LLM):
    talk: list[Any] = [{"role": "user", "content": "hi"}]
    prompt = llm.render(talk)
    rendered = prompt["prompt"]
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    (output,) = llm.chat(talk, GREEDY)
    assert output.prompt == rendered
    assert output.prompt_token_ids == llm.get_tokenizer().encode(rendered, add_special_tokens=False)
    assert output.outputs == llm.generate(prompt, GREEDY)[0].outputs
    assert [one.outputs for one in llm.chat([talk, talk], GREEDY)] == [output.outputs] * 2
    assert llm.render(talk, add_generation_prompt=False)["prompt"] == "<|im_start|>user\nhi<|im_end|>\n"
    template = "{{ messages[0].content }}{{ mark }}{{ enable_thinking }}"
    assert llm.render(talk, template, chat_template_kwargs={"mark": "!"}, enable_thinking=False)["prompt"] == "hi!False"


def test_a_second_turn_finds_the_first_in_the_cache(llm: LLM):
    talk: list[Any] = [{"role": "user", "content": "tell me about the sea"}]
    (first,) = llm.chat(talk, GREEDY)
    talk += [{"role": "assistant", "content": first.outputs[0].text}, {"role": "user", "content": "more"}]
    (second,) = llm.chat(talk, GREEDY)
    assert second.num_cached_tokens >= len(first.prompt_token_ids) // 4 * 4 - 4


def test_embeddings_are_unit_vectors_that_do_not_depend_on_chunks(path: Path, llm: LLM):
    texts = ["hello there, how are you", "hello", "quite another thing"]
    vectors = np.array([output.outputs.embedding for output in llm.embed(texts)])
    assert vectors.shape == (3, 64)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    with load(path, max_num_batched_tokens=4, max_num_seqs=2) as narrow:
        chunked = np.array([output.outputs.embedding for output in narrow.embed(texts)])
    assert chunked == pytest.approx(vectors, abs=1e-5)


def test_pooling_modes_see_all_tokens_or_the_last(llm: LLM):
    short, long = (llm.encode(text, "last")[0].outputs.data for text in ("the end", "in the end"))
    assert short.shape == (64,)
    mean = llm.encode("the end")[0].outputs.data
    assert not np.allclose(mean, short) and not np.allclose(short, long)
    one = llm.get_tokenizer().encode("x")
    assert len(one) == 1
    assert llm.encode([one], "mean")[0].outputs.data == pytest.approx(llm.encode([one], "last")[0].outputs.data)
    with pytest.raises(RequestError, match="pooling must be mean, last or cls"):
        llm.encode("x", "max")


def test_scores_are_cosines(llm: LLM):
    scores = [output.outputs.score for output in llm.score("hello", ["hello", "what else"])]
    assert scores[0] == pytest.approx(1, abs=1e-5)
    assert scores[1] < 0.99
    a, b = (np.array(output.outputs.embedding) for output in llm.embed(["hello", "what else"]))
    assert scores[1] == pytest.approx(float(a @ b), abs=1e-6)
    with pytest.raises(RequestError, match="text_1"):
        llm.score(["a", "b"], ["a", "b", "c"])


def test_beam_search_of_width_one_is_greedy_and_wider_is_no_worse(llm: LLM):
    greedy = llm.generate("hello", SamplingParams(temperature=0.0, max_tokens=6, logprobs=0, ignore_eos=True))[0]
    (one,) = llm.beam_search("hello", BeamSearchParams(1, 6, ignore_eos=True))[0].sequences
    assert one.output_token_ids == greedy.outputs[0].token_ids
    assert one.cum_logprob == pytest.approx(greedy.outputs[0].cumulative_logprob, abs=1e-4)
    outputs = llm.beam_search(["hello", "good"], BeamSearchParams(4, 6, ignore_eos=True))
    assert [len(output.sequences) for output in outputs] == [4, 4]
    totals = [beam.cum_logprob for beam in outputs[0].sequences]
    assert totals == sorted(totals, reverse=True) and totals[0] >= one.cum_logprob - 1e-4
    best = outputs[0].sequences[0]
    assert best.text == llm.get_tokenizer().decode(best.output_token_ids, skip_special_tokens=True)
    with pytest.raises(CapacityError, match="max_model_len is 128"):
        llm.beam_search("hello", BeamSearchParams(2, 128))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "empty"),
        ([[]], "empty"),
        ({"prompt_token_ids": []}, "empty"),
        ({"prompt": ""}, "empty"),
        ([320], "0 to 319"),
        ([-1], "0 to 319"),
        (7, "a prompt must be a string"),
        ([1.5], "a prompt must be a string"),
        ([True], "a prompt must be a string"),
        ({}, "a prompt must be a string"),
        ({"text": "x"}, "cannot have 'text'"),
        ({"prompt": "x", "cache_salt": 1}, "cache_salt must be a string"),
        ("\ud800", "Unicode"),
    ],
)
def test_bad_prompts_are_refused(llm: LLM, prompt: Any, message: str):
    with pytest.raises(RequestError, match=message):
        llm.generate(prompt, GREEDY)
    assert not llm.parts.engine.has_work


def test_a_prompt_too_long_says_by_how_much_and_takes_the_others_down_with_it(llm: LLM):
    with pytest.raises(CapacityError, match=r"is 84 more than max_model_len \(128\)"):
        llm.generate(["fine", [1] * 200], GREEDY)
    assert not llm.parts.engine.has_work
    llm.parts.engine.cache.check_integrity()


def test_bad_parameters_are_refused_by_name(llm: LLM):
    with pytest.raises(RequestError, match="top_p must be"):
        llm.generate("x", SamplingParams(top_p=2.0))
    with pytest.raises(RequestError, match=r"logit_bias must be .* 0 to 319"):
        llm.generate("x", SamplingParams(logit_bias={320: 1.0}))


class Faulty:
    """A backend that gives NaN, or is interrupted, at a certain token."""

    def __init__(self, backend: Any, token: int, interrupt: bool):
        self._backend, self._token, self._interrupt = backend, token, interrupt

    def run(self, batch: Batch) -> StepResult:
        if self._interrupt and self._token in batch.token_ids:
            raise KeyboardInterrupt
        result: StepResult = self._backend.run(batch)
        rows = np.searchsorted(batch.query_starts, batch.logit_rows, side="right") - 1
        for row, owner in enumerate(rows):
            span = slice(batch.query_starts[owner], batch.query_starts[owner + 1])
            result.finite[row] &= self._token not in batch.token_ids[span]
        return result


def test_ctrl_c_leaves_the_engine_empty_and_usable(path: Path):
    with load(path) as llm:
        before = ids(llm, "hello")
        engine = llm.parts.engine
        good, engine._backend = engine._backend, Faulty(engine._backend, 7, interrupt=True)
        with pytest.raises(KeyboardInterrupt):
            llm.generate(["hello", [7, 8, 9]], GREEDY)
        assert not engine.has_work
        engine.cache.check_integrity()
        engine._backend = good
        assert ids(llm, "hello") == before


def test_a_request_that_fails_in_the_engine_fails_alone(path: Path):
    with load(path) as llm:
        before = ids(llm, "hello")
        engine = llm.parts.engine
        engine._backend = Faulty(engine._backend, 7, interrupt=False)
        bad, good = llm.generate([[7, 8, 9], "hello"], GREEDY)
        assert (bad.outputs[0].finish_reason, bad.outputs[0].token_ids) == ("error", [])
        assert good.outputs[0].token_ids == before[0]
        with pytest.raises(RequestError, match="could not be embedded"):
            llm.embed([[7, 8]])
        with pytest.raises(RequestError, match="beam search failed"):
            llm.beam_search([[7, 8]], BeamSearchParams(2, 2))
        assert not engine.has_work


def test_a_folder_and_another_tokenizer_load_too(tmp_path: Path, path: Path, llm: LLM):
    folder = write_tiny_hf(tmp_path / "hf", Tiny())
    with load(folder) as from_folder, load(path, tokenizer=folder) as mixed:
        assert ids(from_folder, "hello") == ids(llm, "hello") == ids(mixed, "hello")


def test_nothing_works_after_shutdown(path: Path):
    llm = load(path)
    llm.shutdown()
    llm.shutdown()
    for ask in (llm.generate, llm.embed, llm.stream):
        with pytest.raises(RequestError, match="shut down"):
            ask("x")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_model_length": 5}, ConfigError, "unknown setting 'max_model_length': did you mean max_model_len?"),
        ({"zzz": 1}, ConfigError, "known settings are max_model_len"),
        ({"tensor_parallel_size": 2}, ConfigError, "tensor_parallel_size must be 1"),
        ({"quantization": "awq"}, ConfigError, "quantization must be None or 'gguf'"),
        ({"speculative_config": {"method": "guess"}}, ConfigError, "method must be one of ngram"),
        ({"gpu_memory_utilization": 1.5}, ConfigError, "gpu_memory_utilization"),
        ({"kv_cache_dtype": "fp8"}, ConfigError, "kv_cache_dtype must be one of"),
        ({"max_model_len": 0}, ConfigError, "max_model_len must be"),
        ({"max_model_len": 10**6}, CapacityError, "context is 512"),
        ({"tokenizer": "/nowhere/tokenizer.json"}, TokenizerError, "/nowhere/tokenizer.json"),
    ],
)
def test_bad_settings_are_refused(path: Path, settings: dict[str, Any], error: type[OctavoError], message: str):
    with pytest.raises(error, match=message.replace("?", r"\?")):
        load(path, **settings)


def test_a_model_that_is_not_there():
    with pytest.raises(ModelFileError, match="no model 'nonesuch'"):
        LLM("nonesuch")


def test_importing_the_package_imports_nothing_heavy():
    for line, heavy in [
        ("import octavo", ("numpy", "tokenizers", "jinja2", "rich")),
        ("from octavo import LLM", ("jinja2", "rich", "torch", "huggingface_hub")),
    ]:
        check = f"import sys; {line}; found = set({heavy}) & sys.modules.keys(); assert not found, found"
        subprocess.run([sys.executable, "-c", check], check=True)
