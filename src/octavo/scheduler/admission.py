"""Checks once, when a request is added, that it can ever run. A request that cannot is refused instead of queued."""

from __future__ import annotations

from octavo.errors import CapacityError, RequestError
from octavo.kv.eviction import kept_tokens, most_blocks, parse
from octavo.types import Request, SinkRecent, SnapKV

LONGEST_STREAM = 2**31 - 1  # positions are int32


def check(request: Request, max_model_len: int, capacity: int, block_size: int) -> None:
    """Raises RequestError for an empty prompt, CapacityError for a request longer than a sequence can get.

    capacity: tokens that the whole KV pool holds. A sequence may be one token longer: its last token is never cached.
    With eviction a sequence has no limit, but what it keeps must fit.
    """
    if not request.prompt_token_ids:
        raise RequestError("the prompt is empty: it must have at least one token", "prompt")
    policy = parse(request.params.kv_eviction)
    if isinstance(policy, SnapKV):  # the prompt and what is kept of it are there at the same time
        capacity -= -(-kept_tokens(policy, len(request.prompt_token_ids)) // block_size) * block_size
    if isinstance(policy, SinkRecent):
        kept = most_blocks(policy, block_size) * block_size
        if kept > min(max_model_len, capacity):
            raise CapacityError(
                f"kv_eviction sink_recent({policy.sinks}, {policy.window}) keeps up to {kept} tokens, but "
                f"max_model_len is {max_model_len} and the KV pool holds {capacity}: lower its window, or raise these"
            )
        max_model_len = capacity = LONGEST_STREAM
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
    """Tokens at which a sequence ends with "length". Depends on settings only, never on other requests.

    With eviction nothing but max_tokens ends it; without that, an answer of max_model_len tokens is long enough."""
    most = min(max_model_len, capacity + 1)
    wanted = request.params.max_tokens
    if isinstance(parse(request.params.kv_eviction), SinkRecent):
        most = len(request.prompt_token_ids) + (max_model_len if wanted is None else wanted)
    return most if wanted is None else min(most, len(request.prompt_token_ids) + wanted)
