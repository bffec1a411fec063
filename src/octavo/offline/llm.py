"""The offline API: `LLM` loads a model and answers prompts in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from octavo import unsupported
from octavo.answers.tool_formats import parser_for
from octavo.answers.tool_prompt import prepared
from octavo.assembly.engine import assemble, engine_config
from octavo.assembly.vllm_settings import check_download
from octavo.backends.base import Progress
from octavo.errors import CapacityError, RequestError
from octavo.offline import beam
from octavo.offline.beam import BeamSearchOutput, BeamSearchParams, BeamSearchSequence, Candidates
from octavo.offline.driver import Driver, Stream
from octavo.offline.progress import progress, steps
from octavo.outputs import (
    EmbeddingOutput,
    EmbeddingRequestOutput,
    PoolingOutput,
    PoolingRequestOutput,
    RequestOutput,
    ScoringOutput,
    ScoringRequestOutput,
)
from octavo.processing.hf_tokenizer import ENDLESS, HFTokenizer
from octavo.processing.inputs import (
    Message,
    Prompt,
    Prompts,
    RequestMaker,
    Tokens,
    as_list,
    chats,
    checked_tools,
    named,
    pair,
    priorities,
)
from octavo.processing.pooling import pooled_vector, settle
from octavo.sampling_params import PoolingParams, SamplingParams
from octavo.types import F32

Priority = int | list[int] | None


class LLM:
    """A model in this process.

        with LLM("smollm2-135m") as llm:
            print(llm.generate("Once upon a time", SamplingParams(max_tokens=40))[0].outputs[0].text)

    model: a path, an alias (see `octavo models`), or hf:org/repo[:file].
    tokenizer: a tokenizer.json, or a folder with one, to use instead of the model's own.
    settings: fields of `config.EngineConfig`, and options of the backend (`threads` and `isa` of cpu).
    Some of vLLM's settings (dtype, quantization, tensor_parallel_size, ...) have one possible value here, which is
    accepted.
    load_progress: called with (bytes done, bytes in all) while the weights are packed.

    Not thread-safe. Raises ModelFileError, TokenizerError, ConfigError or CapacityError.
    """

    def __init__(
        self,
        model: str | Path,
        tokenizer: str | Path | None = None,
        *,
        load_progress: Progress | None = None,
        **settings: Any,
    ):
        self._source = str(model)
        check_download(self._source, settings)
        self.parts = assemble(model, engine_config(**settings), tokenizer, load_progress)
        self._driver = Driver(self.parts.engine, self.parts.tokenizer)
        longest = min(self.parts.config.max_model_len or 0, self.parts.engine.cache.capacity)
        config, vocab_size = self.parts.config, self.parts.model.vocab_size
        self._maker = RequestMaker(self.parts.tokenizer, vocab_size, longest, config.seed, eviction=config.kv_eviction)
        self._open = True

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        """Frees the model. Later requests raise RequestError; a second call does nothing."""
        if self._open:
            self._open = False
            self.parts.close()

    def get_tokenizer(self) -> HFTokenizer:
        """The tokenizer, with the methods of transformers."""
        return HFTokenizer(self.parts.tokenizer, self._source, self.parts.config.max_model_len or ENDLESS)

    def get_default_sampling_params(self) -> SamplingParams:
        """New parameters with the defaults, to be changed. None are read from a model."""
        return SamplingParams()

    if not TYPE_CHECKING:  # else no type checker would find a misspelt name

        def __getattr__(self, name: str) -> Any:
            """Only for names that do not exist: says why those of vLLM's LLM do not."""
            reason = f": {unsupported.METHODS[name]}" if name in unsupported.METHODS else ""
            raise AttributeError(f"LLM has no {name!r}{reason}", name=name, obj=self)

    def generate(
        self,
        prompts: Prompts,
        sampling_params: SamplingParams | list[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        priority: Priority = None,
        **others: Any,
    ) -> list[RequestOutput]:
        """Returns one output per prompt, in order.

        prompts: a string, token ids, {"prompt": ...} or {"prompt_token_ids": ...}; or a list of them.
        sampling_params: one for all prompts, or a list with one per prompt.
        use_tqdm: show a progress bar (on a terminal).
        priority: the lowest goes first; one for all prompts, or a list with one per prompt.
        others: further arguments of vLLM's method, which may ask for nothing (`lora_request=None`).
        Raises RequestError or CapacityError.
        """
        unsupported.refuse("generate", others, unsupported.GENERATE)
        tokens = self._tokens(as_list(prompts))
        ranks = priorities(priority, len(tokens), self.parts.config.policy)
        requests = []
        for number, (prompt, params) in enumerate(zip(tokens, pair(tokens, sampling_params), strict=True)):
            with named("sampling_params", number, len(tokens) if isinstance(sampling_params, list | tuple) else 1):
                requests.append(self._maker.make(prompt, params, priority=ranks[number]))
        jobs = [(request, each.text) for request, each in zip(requests, tokens, strict=True)]
        with progress(sum(request.params.n for request in requests), use_tqdm) as watch:
            return self._driver.generate(jobs, watch)

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, priority: int = 0, **others: Any
    ) -> Stream:
        """Yields OutputDeltas as the answer is generated, and returns the RequestOutput. Arguments: as of `generate`.

        Several streams may be read in turn; their requests share batches. Closing a stream aborts its request.
        """
        unsupported.refuse("stream", others, unsupported.GENERATE)
        tokens = self._tokens([prompt])[0]
        (rank,) = priorities(priority, 1, self.parts.config.policy)
        (params,) = pair([tokens], sampling_params)
        return self._driver.stream(self._maker.make(tokens, params, priority=rank), tokens.text)

    def chat(
        self,
        messages: list[Message] | list[list[Message]],
        sampling_params: SamplingParams | list[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        enable_thinking: bool | None = None,
        priority: Priority = None,
        **others: Any,
    ) -> list[RequestOutput]:
        """`generate` for a conversation, or a list of them. The other arguments are those of `render`."""
        unsupported.refuse("chat", others, unsupported.CHAT)
        conversations = chats(messages)
        how = (
            chat_template,
            add_generation_prompt,
            continue_final_message,
            tools,
            chat_template_kwargs,
            enable_thinking,
        )
        prompts: list[Prompt] = []
        for number, each in enumerate(conversations):
            with named("messages", number, len(conversations)):
                prompts.append(self.render(each, *how))
        return self.generate(prompts, sampling_params, use_tqdm, priority=priority)

    def render(
        self,
        messages: list[Message],
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        enable_thinking: bool | None = None,
    ) -> dict[str, Any]:
        """Renders a conversation as a prompt with the model's chat template or the given one.

        add_generation_prompt: the prompt ends with the beginning of an answer.
        continue_final_message: the prompt ends within the last message, and the answer continues it. No answer begins
        then, whatever add_generation_prompt is.
        tools: in OpenAI's form. If the template knows no tools, a system message describes them.
        chat_template_kwargs: further variables for the template.
        enable_thinking: whether the model may reason before it answers, if its template knows that variable; None
        leaves it to the template.
        Raises RequestError for malformed messages or a reserved variable, TokenizerError for the template.
        """
        from octavo import chat  # jinja2 takes 40 ms, which plain completion need not spend
        from octavo.chat import continuing

        variables = chat.checked_variables(chat_template_kwargs, enable_thinking)
        template = chat.chosen_template(self.parts.tokenizer, chat_template) or ""
        talk, offered = chat.normalise(messages), checked_tools(tools)
        if not talk:
            raise RequestError("messages: at least one message is needed", "messages")
        if continue_final_message:
            continuing.check(talk)
        talk, given = prepared(template, parser_for(template).taught, talk, offered)
        ends = {"add_generation_prompt": add_generation_prompt, "continue_final_message": continue_final_message}
        text, ids = chat.prompt(self.parts.tokenizer, talk, chat_template, tools=given, **ends, **variables)
        return {"prompt": text, "prompt_token_ids": ids}

    def encode(
        self,
        prompts: Prompts,
        pooling: str | PoolingParams | None = None,
        normalize: bool = False,
        *,
        pooling_params: PoolingParams | None = None,
        use_tqdm: bool = True,
        priority: Priority = None,
        **others: Any,
    ) -> list[PoolingRequestOutput]:
        """Returns each prompt's pooled hidden states of the last layer: [D].

        pooling: "mean" over its tokens, or the "last" token's or the first one's ("cls"). None: as the model's file
        says, else "mean". normalize: scale vectors to length 1. pooling_params: the same in vLLM's form.
        use_tqdm, priority, others: see `generate`.
        """
        unsupported.refuse("encode", others, unsupported.POOL)
        settled = self._settled(pooling, pooling_params, None, normalize)
        outputs, vectors = self._pool(self._tokens(as_list(prompts)), settled, use_tqdm, priority)
        return [
            PoolingRequestOutput(output.request_id, output.prompt_token_ids, PoolingOutput(vector))
            for output, vector in zip(outputs, vectors, strict=True)
        ]

    def embed(
        self,
        prompts: Prompts,
        pooling: str | PoolingParams | None = None,
        dimensions: int | None = None,
        *,
        pooling_params: PoolingParams | None = None,
        use_tqdm: bool = True,
        priority: Priority = None,
        **others: Any,
    ) -> list[EmbeddingRequestOutput]:
        """Returns `encode`'s vectors as lists of floats, cut to the first `dimensions` values and of length 1."""
        unsupported.refuse("embed", others, unsupported.POOL)
        settled = self._settled(pooling, pooling_params, dimensions, True)
        outputs, vectors = self._pool(self._tokens(as_list(prompts)), settled, use_tqdm, priority)
        return [
            EmbeddingRequestOutput(output.request_id, output.prompt_token_ids, EmbeddingOutput(vector.tolist()))
            for output, vector in zip(outputs, vectors, strict=True)
        ]

    def score(
        self,
        text_1: Prompts,
        text_2: Prompts,
        pooling: str | PoolingParams | None = None,
        *,
        pooling_params: PoolingParams | None = None,
        use_tqdm: bool = True,
        priority: int = 0,
        **others: Any,
    ) -> list[ScoringRequestOutput]:
        """Returns the cosine similarity of each pair of embeddings. A single `text_1` is paired with every `text_2`."""
        unsupported.refuse("score", others, unsupported.SCORE)
        left, right = as_list(text_1), as_list(text_2)
        if len(left) not in (1, len(right)):
            raise RequestError(f"text_1 has {len(left)} texts: it must have 1, or {len(right)} as text_2", "text_1")
        texts = [*self._tokens(left, "text_1"), *self._tokens(right, "text_2")]
        settled = self._settled(pooling, pooling_params, None, True)
        outputs, vectors = self._pool(texts, settled, use_tqdm, priority)
        pairs = [(0 if len(left) == 1 else i, len(left) + i) for i in range(len(right))]
        return [
            ScoringRequestOutput(
                outputs[b].request_id,
                outputs[a].prompt_token_ids + outputs[b].prompt_token_ids,
                ScoringOutput(float(np.dot(vectors[a], vectors[b]))),
            )
            for a, b in pairs
        ]

    def beam_search(
        self, prompts: Prompts, params: BeamSearchParams, *, use_tqdm: bool = False, **others: Any
    ) -> list[BeamSearchOutput]:
        """Returns the `beam_width` most likely answers to each prompt, best first. use_tqdm, others: see `generate`."""
        unsupported.refuse("beam_search", others, unsupported.BEAM_SEARCH)
        beam.check_beam_params(params)
        starts = self._tokens(as_list(prompts))
        self._check_length(max((len(start.ids) for start in starts), default=0) + params.max_tokens)
        with steps(params.max_tokens, use_tqdm, "searching") as step:

            def expand(beams: list[BeamSearchSequence], count: int) -> list[Candidates]:
                step()
                return self._expand(beams, count)

            found = beam.search(starts, params, self.parts.tokenizer.eos_ids, expand)
        for sequence in (sequence for sequences in found for sequence in sequences):
            sequence.text = self.parts.tokenizer.decode(
                sequence.output_token_ids, after=sequence.tokens[: sequence.num_prompt_tokens]
            )
        return [BeamSearchOutput(sequences) for sequences in found]

    def _expand(self, beams: list[BeamSearchSequence], count: int) -> list[Candidates]:
        """Returns the `count` most likely tokens after each beam."""
        params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=count, ignore_eos=True)
        starts = [Tokens(each.tokens, cache_salt=each.cache_salt) for each in beams]
        outputs = self._driver.generate([(self._maker.make_unchecked(start, params), None) for start in starts])
        found = [output.outputs[0].logprobs for output in outputs]
        if not all(found):
            raise RequestError("beam search failed: the engine could not run one of its beams")
        return [[(token, entry.logprob) for token, entry in maps[0].items()] for maps in found if maps]

    def _check_length(self, length: int) -> None:
        if length > (limit := self.parts.config.max_model_len or 0):
            raise CapacityError(f"prompt and max_tokens need {length} tokens, but max_model_len is {limit}")

    def _tokens(self, prompts: list[Prompt], field: str = "prompts") -> list[Tokens]:
        if not self._open:
            raise RequestError("this LLM has been shut down")
        return list(self._maker.tokens_of(prompts, field))

    def _settled(
        self, pooling: str | PoolingParams | None, params: PoolingParams | None, dimensions: int | None, scaled: bool
    ) -> PoolingParams:
        return settle(pooling, params, dimensions, scaled, self.parts.pooling, self.parts.model.hidden_size)

    def _pool(
        self, prompts: list[Tokens], settled: PoolingParams, use_tqdm: bool, priority: Priority
    ) -> tuple[list[RequestOutput], list[F32]]:
        ranks = priorities(priority, len(prompts), self.parts.config.policy)
        params = SamplingParams(max_tokens=0, truncate_prompt_tokens=settled.truncate_prompt_tokens)
        requests = [
            self._maker.make(tokens, params, pooling=settled.pooling, priority=rank)
            for tokens, rank in zip(prompts, ranks, strict=True)
        ]
        with progress(len(requests), use_tqdm, "embedding") as watch:
            outputs = self._driver.generate([(request, None) for request in requests], watch)
        return outputs, [pooled_vector(output, bool(settled.normalize), settled.dimensions) for output in outputs]
