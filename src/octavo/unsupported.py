"""Arguments of vLLM and transformers that are not honoured here: accepted where they ask for nothing, else refused."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from octavo.errors import RequestError

Class = TypeVar("Class", bound=type)

# By argument: why not, or what to use; and the values besides None that ask for nothing.
Reasons = Mapping[str, tuple[str, tuple[Any, ...]]]


def refuse(function: str, given: Mapping[str, Any], reasons: Reasons) -> None:
    """Raises RequestError for an argument of `reasons` that asks for something, TypeError for any other argument.

    function: its name, for the TypeError, whose words are Python's.
    """
    for name, value in given.items():
        if name not in reasons:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
        reason, neutral = reasons[name]
        if value not in (None, *neutral) and not _nothing(value):
            raise RequestError(f"{name} is not supported: {reason}; got {value!r:.60}", name)


def _nothing(value: Any) -> bool:
    """Whether it is a list of Nones: nothing for each prompt."""
    return isinstance(value, list | tuple) and all(each is None for each in value)


def knows(reasons: Reasons) -> Callable[[Class], Class]:
    """Decorates a dataclass so that its constructor knows these arguments too, as `refuse` does."""

    def extend(cls: Class) -> Class:
        made = cls.__init__  # type: ignore[misc]

        @functools.wraps(made)
        def init(self: Any, *arguments: Any, **named: Any) -> None:
            if others := named.keys() & reasons.keys():
                refuse(cls.__name__, {name: named.pop(name) for name in others}, reasons)
            made(self, *arguments, **named)

        setattr(cls, "__init__", init)  # noqa: B010  # mypy forbids the plain assignment
        return cls

    return extend


NO_BEAMS = "use LLM.beam_search"
TEXT_ONLY = "models read text only"

SAMPLING: Reasons = {  # fields of vLLM's SamplingParams, old and new
    "best_of": ("ask for more answers with n, and keep those of the highest cumulative_logprob", (1,)),
    "early_stopping": (NO_BEAMS, (False,)),
    "extra_args": ("nothing here reads them", ({},)),
    "flat_logprobs": ("logprobs are a list with one map a token", (False,)),
    "guided_decoding": ("use structured_outputs", ()),
    "length_penalty": (NO_BEAMS, (1,)),
    "logits_processors": ("use logit_bias, allowed_token_ids, bad_words or structured_outputs", ()),
    "logprob_token_ids": ("use logprobs, which gives the most likely tokens", ()),
    "prompt_logprob_start": ("use prompt_logprobs, which begins with the first token", (0,)),
    "prompt_logprob_token_ids": ("use prompt_logprobs, which gives the most likely tokens", ()),
    "repetition_detection": ("use repetition_penalty", ()),
    "routed_experts_prompt_start": ("routes of experts are not returned", (0,)),
    "skip_clone": ("each request copies its parameters", (False, True)),
    "skip_reading_prefix_cache": ("give the prompt a cache_salt of its own; the answer is the same", (False,)),
    "stream_interval": ("the tokens of each step are streamed at once", (1,)),
    "thinking_token_budget": ("reasoning ends where the model ends it; enable_thinking=False turns it off", (-1,)),
    "trace_decode_token_ids": ("use prompt_logprobs to score given tokens", ()),
    "use_beam_search": (NO_BEAMS, (False,)),
}

STRUCTURED: Reasons = {  # fields of vLLM's StructuredOutputsParams
    "disable_additional_properties": ("say additionalProperties: false in the schema", (False,)),
    "disable_any_whitespace": ("white space in JSON has a fixed bound here", (False,)),
    "structural_tag": ("use grammar, in Lark's syntax", ()),
    "whitespace_pattern": ("white space in JSON has a fixed bound here", ()),
}

POOLING: Reasons = {  # fields of vLLM's PoolingParams
    "activation": ("models here embed, and classify nothing", ()),
    "extra_kwargs": ("nothing here reads them", ({},)),
    "returned_token_ids": ("models here embed, and classify nothing", ()),
    "skip_reading_prefix_cache": SAMPLING["skip_reading_prefix_cache"],
    "softmax": ("models here embed, and classify nothing", ()),
    "step_tag_id": ("models here embed, and classify nothing", ()),
    "task": ("each prompt gives one vector: call embed, encode or score", ("embed",)),
    "use_activation": ("models here embed, and classify nothing", ()),
}

BEAMS: Reasons = {  # fields of vLLM's BeamSearchParams
    "include_stop_str_in_output": ("beams have no stop strings", (False,)),
    "structured_outputs": ("beams follow no grammar; use LLM.generate", ()),
}

CALL: Reasons = {  # arguments of every method of vLLM's LLM
    "lora_request": ("LoRA adapters are not supported", ()),
    "mm_processor_kwargs": (TEXT_ONLY, ({},)),
    "prompt_adapter_request": ("prompt adapters are not supported", ()),
    "tokenization_kwargs": ("use truncate_prompt_tokens of SamplingParams or PoolingParams, or pass token ids", ({},)),
}
GENERATE: Reasons = {
    **CALL,
    "guided_options_request": ("use structured_outputs of SamplingParams", ()),
    "prompt_token_ids": ("pass the token ids as prompts, or TokensPrompt(prompt_token_ids=...)", ()),
}
CHAT: Reasons = {
    **CALL,
    "chat_template_content_format": ("templates get a message's content as text", ("auto", "string")),
}
ASYNC: Reasons = {  # AsyncLLM.generate
    **GENERATE,
    "data_parallel_rank": ("one process runs the model", (0,)),
    "prompt_text": ("pass TokensPrompt(prompt_token_ids=..., prompt=...)", ()),
    "trace_headers": ("use the server, which continues a client's trace", ({},)),
}
POOL: Reasons = {
    **CALL,
    "pooling_task": ("each prompt gives one vector", ("embed",)),
    "truncate_prompt_tokens": ("use pooling_params=PoolingParams(truncate_prompt_tokens=...)", ()),
}
SCORE: Reasons = {**POOL, "chat_template": ("a score is the similarity of two embeddings, without a template", ())}
BEAM_SEARCH: Reasons = {**CALL, "concurrency_limit": ("max_num_seqs limits what runs at once", ())}

METHODS = {  # attributes of vLLM's LLM, and why there are none here
    "apply_model": "the model is no torch module",
    "classify": "models here generate and embed; they classify nothing",
    "collective_rpc": "there are no workers",
    "enqueue": "use AsyncLLM",
    "get_metrics": "each output has `metrics`; the engine's counters are `llm.parts.engine.stats`",
    "llm_engine": "the parts of an LLM are `llm.parts`",
    "preprocess_chat": "use render()",
    "reset_prefix_cache": "a cache_salt of its own keeps a prompt from what was computed before",
    "reward": "models here generate and embed; they judge nothing",
    "set_tokenizer": "pass tokenizer=... when the model is loaded",
    "sleep": "shutdown() frees the model",
    "start_profile": "use `octavo bench MODEL --profile`",
    "stop_profile": "use `octavo bench MODEL --profile`",
    "wake_up": "shutdown() frees the model, and a new LLM loads it",
}

PROMPT: Reasons = {  # fields of a prompt that is a mapping
    "encoder_prompt": ("models here have no encoder", ()),
    "mm_processor_kwargs": CALL["mm_processor_kwargs"],
    "multi_modal_data": (TEXT_ONLY, ({},)),
    "multi_modal_uuids": (TEXT_ONLY, ({},)),
    "prompt_embeds": ("a prompt is text or token ids", ()),
    "token_type_ids": ("models here have one type of token", ()),
}

ONE_BY_ONE = "each text becomes a list of ids, and nothing else is returned"
TOKENIZE: Reasons = {  # arguments of a call of transformers' tokenizer
    "is_split_into_words": (ONE_BY_ONE, (False,)),
    "pad_to_multiple_of": ("nothing is padded", ()),
    "padding": ("nothing is padded", (False, "do_not_pad")),
    "padding_side": ("nothing is padded", ("left", "right")),
    "return_attention_mask": (ONE_BY_ONE, (True,)),
    "return_length": (ONE_BY_ONE, (False,)),
    "return_offsets_mapping": (ONE_BY_ONE, (False,)),
    "return_overflowing_tokens": (ONE_BY_ONE, (False,)),
    "return_special_tokens_mask": (ONE_BY_ONE, (False,)),
    "return_tensors": ("ids are lists; numpy.array or torch.tensor makes arrays of them", ()),
    "return_token_type_ids": (ONE_BY_ONE, (False,)),
    "split_special_tokens": ("control tokens in a text are read as such", (False,)),
    "stride": (ONE_BY_ONE, (0,)),
    "text_pair": (ONE_BY_ONE, ()),
    "verbose": ("there are no warnings to silence", (True, False)),
}
DECODE: Reasons = {
    "clean_up_tokenization_spaces": ("a text is returned as its tokens spell it", (False,)),
    "spaces_between_special_tokens": ("a text is returned as its tokens spell it", (True, False)),
    "use_source_tokenizer": ("there is one tokenizer", (False,)),
}
TEMPLATE: Reasons = {  # of apply_chat_template; any other argument is a variable of the template
    **{name: TOKENIZE[name] for name in ("padding", "return_tensors")},
    "return_assistant_tokens_mask": (ONE_BY_ONE, (False,)),
    "tokenizer_kwargs": (ONE_BY_ONE, ({},)),
}
