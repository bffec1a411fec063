"""Fields of OpenAI's, vLLM's, SGLang's and llama.cpp's requests that this server cannot honour.

A request that uses one is refused, with the reason, because its answer would not be what the client asked for. Fields
that change no answer, such as `user`, `metadata` or `prediction`, are ignored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from octavo.server.http.errors import bad_request

TEXT_ONLY = "this server reads and writes text only"
NO_SAMPLER = "there is no such sampler here; there are top_k, top_p, min_p and typical_p"
NO_BEAMS = "only `LLM.beam_search` searches with beams"
STRUCTURE = "use response_format or structured_outputs"

# By field: why not, or what to use; and the values besides null that ask for nothing.
Reasons = Mapping[str, tuple[str, tuple[Any, ...]]]

REASONS: Reasons = {
    "add_special_tokens": ("the chat template writes them", (False,)),
    "audio": (TEXT_ONLY, ()),
    "chat_template": ("the operator chooses the template: `octavo serve --chat-template`", ()),
    "dry_multiplier": (NO_SAMPLER, (0,)),
    "dynatemp_range": (NO_SAMPLER, (0,)),
    "ebnf": (STRUCTURE, ("",)),
    "echo": ("use /v1/completions", (False,)),
    "function_call": ("it is obsolete; use tool_choice", ()),
    "functions": ("it is obsolete; use tools", ()),
    "grammar": ("use structured_outputs.grammar, in Lark's syntax", ("",)),
    "guided_whitespace_pattern": ("white space in JSON has a fixed bound here", ()),
    "json_schema": (STRUCTURE, ()),
    "kv_transfer_params": ("the cache stays in this process", ()),
    "length_penalty": (NO_BEAMS, (1,)),
    "logits_processors": ("a request cannot bring code", ([],)),
    "lora": ("adapters are not supported", ([],)),
    "mirostat": (NO_SAMPLER, (0,)),
    "mm_processor_kwargs": (TEXT_ONLY, ({},)),
    "modalities": (TEXT_ONLY, (["text"],)),
    "n_predict": ("use max_tokens", (-1,)),
    "prompt_logprobs": ("use /v1/completions", ()),
    "reasoning_format": ("the operator chooses it: `octavo serve --reasoning-parser`", ("auto", "deepseek")),
    "regex": (STRUCTURE, ("",)),
    "repeat_penalty": ("use repetition_penalty", (1,)),
    "return_token_ids": ("use /tokenize", (False,)),
    "return_tokens_as_token_ids": ("use /tokenize", (False,)),
    "samplers": ("the order of the samplers is fixed here", ()),
    "separate_reasoning": ("the operator chooses it: `octavo serve --reasoning-parser`", (True,)),
    "service_tier": ("there is one tier; use priority", ("auto", "default")),
    "stop_regex": ("use stop", ("", [])),
    "store": ("nothing is stored here", (False,)),
    "suffix": ("use /v1/completions", ()),
    "thinking_token_budget": ("reasoning ends where the model ends it; enable_thinking turns it off", ()),
    "top_n_sigma": (NO_SAMPLER, (-1, 0)),
    "use_beam_search": (NO_BEAMS, (False,)),
    "verbosity": ("chat templates do not know it; ask for it in a message", ("medium",)),
    "web_search_options": ("this server does not search the web; offer a tool", ()),
    "xtc_probability": (NO_SAMPLER, (0,)),
}

RESPONSES: Reasons = {  # fields of /v1/responses
    "conversation": ("nothing is stored here; send all items as input", ()),
    "frequency_penalty": ("use /v1/chat/completions", (0,)),
    "include": ("answers here have nothing to add", ([], ["reasoning.encrypted_content"])),
    "presence_penalty": ("use /v1/chat/completions", (0,)),
    "prompt": ("no prompts are stored here; send the text as instructions", ()),
    "service_tier": REASONS["service_tier"],
    "stop": ("use /v1/chat/completions", ([],)),
    "store": REASONS["store"],
    "top_logprobs": ("use /v1/chat/completions", (0,)),
    "truncation": ("inputs are never cut", ("disabled",)),
}

MESSAGES: Reasons = {  # fields of /v1/messages
    "container": ("this server runs no code", ()),
    "mcp_servers": ("this server connects to no other; offer tools", ([],)),
    "output_format": ("offer a tool with this schema, or use response_format of /v1/chat/completions", ()),
}

STRUCTURED: Reasons = {  # fields within structured_outputs
    "disable_additional_properties": ("say additionalProperties: false in the schema", (False,)),
    "disable_any_whitespace": ("white space in JSON has a fixed bound here", (False,)),
    "structural_tag": ("use grammar, in Lark's syntax", ()),
    "whitespace_pattern": ("white space in JSON has a fixed bound here", ()),
}

if TYPE_CHECKING:

    class Unsupported(Struct):
        """The fields of REASONS, of any type."""

    class UnsupportedInResponses(Struct):
        """The fields of RESPONSES."""

    class UnsupportedInMessages(Struct):
        """The fields of MESSAGES."""

    class UnsupportedStructure(Struct):
        """The fields of STRUCTURED."""

else:

    def _struct(name: str, reasons: Reasons) -> type[Struct]:
        notes = {field: Meta(description=f"Not supported: {why}.") for field, (why, _) in reasons.items()}
        return msgspec.defstruct(
            name, [(field, Annotated[Any, note], None) for field, note in notes.items()], kw_only=True
        )

    Unsupported = _struct("Unsupported", REASONS)
    UnsupportedInResponses = _struct("UnsupportedInResponses", RESPONSES)
    UnsupportedInMessages = _struct("UnsupportedInMessages", MESSAGES)
    UnsupportedStructure = _struct("UnsupportedStructure", STRUCTURED)


def refuse(
    body: Struct,
    honoured: Collection[str] = (),
    reasons: Reasons = REASONS,
    within: str = "",
) -> None:
    """Raises ApiError for the first field of `reasons` that asks for something.

    honoured: fields that this route knows. within: what comes before a field's name in the error.
    """
    for name, (reason, neutral) in reasons.items():
        value = getattr(body, name)
        if value is not None and value not in neutral and name not in honoured:
            raise bad_request(f"{within}{name} is not supported: {reason}", within + name, "unsupported_parameter")
