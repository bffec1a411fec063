"""Checks once, when a request is added, that it can ever run. A request that cannot is refused instead of queued."""

from __future__ import annotations

from octavo.errors import CapacityError, RequestError
from octavo.types import Request


def check(request: Request, max_model_len: int, capacity: int) -> None:
    """Raises RequestError for an empty prompt, CapacityError for a request longer than a sequence can get.

    capacity: tokens that the whole KV pool holds. A sequence may be one token longer: its last token is never cached.
    """
    if not request.prompt_token_ids:
        raise RequestError("the prompt is empty: it must have at least one token", "prompt")
    prompt, wanted = len(request.prompt_token_ids), _wanted(request)
    if prompt + wanted > max_model_len:
        raise CapacityError(
            f"{_terms(prompt, wanted)} is {prompt + wanted - max_model_len} more than max_model_len ({max_model_len}): "
            f"shorten the prompt, lower max_tokens or raise max_model_len"
        )
    missing = prompt + max(wanted, 1) - 1 - capacity
    if missing > 0:
        raise CapacityError(
            f"{_terms(prompt, wanted)} needs {missing} tokens of KV cache more than the whole pool holds ({capacity}): "
            f"shorten the prompt, lower max_tokens or raise kv_cache_memory (or num_kv_blocks)"
        )


def _wanted(request: Request) -> int:
    """Output tokens that must fit: `max_tokens`, or at least one if it is not set."""
    if request.pooling is not None:
        return 0
    return 1 if request.params.max_tokens is None else request.params.max_tokens


def _terms(prompt: int, wanted: int) -> str:
    return f"the prompt of {prompt} tokens" + (f" and {wanted} to generate" if wanted else "")


def max_length(request: Request, max_model_len: int, capacity: int) -> int:
    """Tokens at which a sequence ends with "length". Depends on settings only, never on other requests."""
    most = min(max_model_len, capacity + 1)
    wanted = request.params.max_tokens
    return most if wanted is None else min(most, len(request.prompt_token_ids) + wanted)
