"""Fields of OpenAI's, vLLM's and llama.cpp's chat requests that this server cannot honour.

A request that uses one is refused, with the reason, because its answer would not be what the client asked for. Values
that ask for nothing (null, false, a default) are accepted. Fields that change no answer, such as `user`, `metadata` or
`prediction`, are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from octavo.server.http.errors import bad_request

TEXT_ONLY = "this server reads and writes text only"
SAMPLERS = "this sampler does not exist here; `octavo serve` has top_k, top_p, min_p and typical_p"


# By field: what to do instead, or why not; and the values besides null that ask for nothing.
REASONS: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "audio": (TEXT_ONLY, ()),
    "chat_template": ("the operator chooses the template: `octavo serve --chat-template`", ()),
    "dry_multiplier": (SAMPLERS, (0,)),
    "dynatemp_range": (SAMPLERS, (0,)),
    "function_call": ("it is obsolete; use tool_choice", ()),
    "functions": ("it is obsolete; use tools", ()),
    "grammar": ("use structured_outputs.grammar, in Lark's syntax", ("",)),
    "guided_whitespace_pattern": ("white space in JSON has a fixed bound here", ()),
    "json_schema": ("use response_format", ()),
    "kv_transfer_params": ("the cache stays in this process", ()),
    "length_penalty": ("it belongs to beam search, which only `LLM.beam_search` has", (1,)),
    "logits_processors": ("a request cannot bring code", ([],)),
    "lora": ("adapters are not supported", ([],)),
    "mirostat": (SAMPLERS, (0,)),
    "mm_processor_kwargs": (TEXT_ONLY, ({},)),
    "modalities": (TEXT_ONLY, (["text"],)),
    "prompt_logprobs": ("use /v1/completions, which has them", ()),
    "return_token_ids": ("use /tokenize", (False,)),
    "return_tokens_as_token_ids": ("use /tokenize", (False,)),
    "service_tier": ("there is one tier; use priority", ("auto", "default")),
    "store": ("nothing is stored here", (False,)),
    "thinking_token_budget": ("reasoning ends where the model ends it; enable_thinking turns it off", ()),
    "truncate_prompt_tokens": ("prompts are never cut", (-1,)),
    "use_beam_search": ("only `LLM.beam_search` has it", (False,)),
    "verbosity": ("no chat template here knows it; ask for it in a message", ("medium",)),
    "web_search_options": ("this server does not search the web; offer a tool", ()),
    "xtc_probability": (SAMPLERS, (0,)),
}

if TYPE_CHECKING:

    class Unsupported(Struct):
        """The fields of REASONS. Each is refused unless it is null or asks for nothing."""

else:
    Unsupported = msgspec.defstruct("Unsupported", [(name, Any, None) for name in REASONS], kw_only=True)


def refuse(body: Unsupported) -> None:
    """Raises ApiError for the first field that asks for something."""
    for name, (reason, neutral) in REASONS.items():
        value = getattr(body, name)
        if value is not None and value not in neutral:
            raise bad_request(f"{name} is not supported: {reason}", name, "unsupported_parameter")
