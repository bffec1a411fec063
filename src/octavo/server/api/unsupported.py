"""Fields of OpenAI's, vLLM's, SGLang's and llama.cpp's requests that this server cannot honour.

A request that uses one is refused, with the reason, because its answer would not be what the client asked for. Fields
that change no answer, such as `user`, `metadata` or `prediction`, are ignored.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from octavo.server.http.errors import bad_request
from octavo.unsupported import STRUCTURED, Reasons

TEXT_ONLY = "this server reads and writes text only"
NO_SAMPLER = "there is no such sampler here; there are top_k, top_p, min_p and typical_p"
NO_BEAMS = "only `LLM.beam_search` searches with beams"
STRUCTURE = "use response_format or structured_outputs"

REASONS: Reasons = {
    "add_special_tokens": ("the chat template writes them", (False,)),
    "audio": (TEXT_ONLY, ()),
    "chat_template": ("the operator chooses the template: `octavo serve --chat-template`", ()),
    "dry_multiplier": (NO_SAMPLER, (0,)),
    "dynatemp_range": (NO_SAMPLER, (0,)),
    "ebnf": (STRUCTURE, ("",)),
    "extra_body": ("it is an argument of a Python client; put its fields into the request", ({},)),
    "echo": ("use /v1/completions", (False,)),
    "function_call": ("it is obsolete; use tool_choice", ()),
    "functions": ("it is obsolete; use tools", ()),
    "grammar": ("use structured_outputs.grammar", ("",)),
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
    "prompt_embeds": ("a prompt is a text or token ids", ()),
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

_IN_CHAT = "use /v1/chat/completions"
CHAT: Reasons = {  # fields of /v1/chat/completions that the other APIs for chats do not have
    "allowed_token_ids": (_IN_CHAT, ()),
    "bad_words": (_IN_CHAT, ([],)),
    "best_of": (_IN_CHAT, (1,)),
    "chat_template_kwargs": (_IN_CHAT, ({},)),
    "extra_body": REASONS["extra_body"],
    "frequency_penalty": (_IN_CHAT, (0,)),
    "ignore_eos": (_IN_CHAT, (False,)),
    "logit_bias": (_IN_CHAT, ({},)),
    "logprobs": (_IN_CHAT, (False,)),
    "min_p": (_IN_CHAT, (0,)),
    "min_tokens": (_IN_CHAT, (0,)),
    "n": (_IN_CHAT, (1,)),
    "presence_penalty": (_IN_CHAT, (0,)),
    "repetition_penalty": (_IN_CHAT, (1,)),
    "seed": (_IN_CHAT, ()),
    "stop_token_ids": (_IN_CHAT, ([],)),
    "structured_outputs": (_IN_CHAT, ()),
    "typical_p": (_IN_CHAT, (1,)),
}

RESPONSES: Reasons = {  # fields of /v1/responses
    **CHAT,
    "conversation": ("nothing is stored here; send all items as input", ()),
    "include": ("answers here have nothing to add", ([], ["reasoning.encrypted_content"])),
    "max_completion_tokens": ("use max_output_tokens", ()),
    "max_tokens": ("use max_output_tokens", ()),
    "messages": ("use input", ()),
    "prompt": ("no prompts are stored here; send the text as instructions", ()),
    "reasoning_effort": ("use reasoning.effort", ()),
    "response_format": ("use text.format", ()),
    "service_tier": REASONS["service_tier"],
    "stop": (_IN_CHAT, ([],)),
    "store": REASONS["store"],
    "top_k": (_IN_CHAT, (-1, 0)),
    "top_logprobs": (_IN_CHAT, (0,)),
    "truncation": ("inputs are never cut", ("disabled",)),
}

KEEP_THINKING = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}  # Claude Code sends it
MESSAGES: Reasons = {  # fields of /v1/messages
    **CHAT,
    "compaction": ("conversations are never shortened; send what the model shall read", ()),
    "container": ("this server runs no code", ()),
    "context_management": (
        "conversations are never shortened; send what the model shall read",
        ({}, {"edits": []}, KEEP_THINKING),
    ),
    "max_completion_tokens": ("use max_tokens", ()),
    "mcp_servers": ("this server connects to no other; offer tools", ([],)),
    "reasoning_effort": ("use output_config.effort", ()),
    "response_format": ("use output_config.format", ()),
    "stop": ("use stop_sequences", ([],)),
    "thread": ("nothing is stored here; send all messages", ()),
}

EMBEDDINGS: Reasons = {  # fields of /v1/embeddings
    "add_special_tokens": ("send the token ids that /tokenize gives", (True,)),
    "embed_dtype": ("vectors are float32", ("float32",)),
    "input_type": ("write the instruction into the input", ()),
    "messages": ("use input", ()),
    "prompt_name": ("write the instruction into the input", ()),
    "task": ("write the instruction into the input", ()),
    "truncate": ("use truncate_prompt_tokens", ("NONE",)),
}

INFILL: Reasons = {  # fields of /infill
    "max_tokens": ("use n_predict", ()),
    "n_probs": ("use logprobs of /v1/completions", (0,)),
}

OUTPUT_CONFIG: Reasons = {  # fields within output_config of /v1/messages
    "task_budget": ("use max_tokens", ()),
}

if TYPE_CHECKING:

    class Unsupported(Struct):
        """The fields of REASONS, of any type."""

    class UnsupportedInResponses(Struct):
        """The fields of RESPONSES."""

    class UnsupportedInMessages(Struct):
        """The fields of MESSAGES."""

    class UnsupportedInEmbeddings(Struct):
        """The fields of EMBEDDINGS."""

    class UnsupportedInOutputConfig(Struct):
        """The fields of OUTPUT_CONFIG."""

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
    UnsupportedInEmbeddings = _struct("UnsupportedInEmbeddings", EMBEDDINGS)
    UnsupportedInOutputConfig = _struct("UnsupportedInOutputConfig", OUTPUT_CONFIG)
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
