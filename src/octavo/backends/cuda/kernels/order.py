"""Weights of tokens as integers, so that any order of sums gives the same; and which tokens top_k, top_p and typical_p
keep: the first ones in some order. The last of them is found by bisection on the order's key, so nothing is sorted."""

import triton
import triton.language as tl

ONE = tl.constexpr(17592186044416.0)  # 2^44: fewer than 2^19 weights of this size add up below 2^63
MAX_TOKENS = (1 << 19) - 1  # of a vocabulary
FAR = tl.constexpr(0x7FFFFFFFFFFFFFFF)  # a key that no token reaches


@triton.jit
def weigh(z, floor):
    """exp(z) * 2^44 to the nearest integer; 0 below the floor."""
    w = tl.where(z < floor, 0.0, tl.exp(z)) * ONE
    w = tl.where(w < 8388608.0, (w + 8388608.0) - 8388608.0, w)  # 2^23: from there on there are no fractions
    return w.to(tl.int64)


@triton.jit
def surprise_key(z, log_total, entropy):
    """|surprise - entropy|, as an integer that sorts like it."""
    return tl.abs((log_total - z.to(tl.float64)) - entropy).to(tl.int64, bitcast=True)


@triton.jit
def rank_key(z):
    """-z as an integer that sorts like it: the likeliest first. z <= 0."""
    return tl.abs(z).to(tl.int32, bitcast=True).to(tl.int64)


@triton.jit
def weights(z, floor, token, there, last, last_token):
    """Those of tokens up to (last, last_token) in the order of ranks."""
    key = rank_key(z)
    kept = there & ((key < last) | ((key == last) & (token <= last_token)))
    return tl.where(kept, weigh(z, floor), 0)


@triton.jit
def first(
    row, V, wanted, floor, last, last_token, log_total, entropy, tie,
    COUNT: tl.constexpr, TYPICAL: tl.constexpr, TIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(the smallest key up to which tokens weigh `wanted`, what those of smaller keys leave of it).

    COUNT: each token weighs 1. TYPICAL: in the order of surprise, else of rank. TIES: only tokens of key `tie`, in the
    order of their ids."""
    low, high = tl.full((), 0, tl.int64), tl.full((), FAR, tl.int64)
    before = tl.full((), 0, tl.int64)
    while low < high:
        middle = low + (high - low) // 2
        # Lane by lane: one reduction over the threads a round, not one a block.
        totals, belows = tl.zeros((BLOCK,), tl.int64), tl.zeros((BLOCK,), tl.int64)
        aboves = tl.full((BLOCK,), FAR, tl.int64)
        for start in range(0, V, BLOCK):
            token = start + tl.arange(0, BLOCK)
            there = token < V
            z = tl.load(row + token, mask=there, other=float("-inf"))
            if TYPICAL:
                key = surprise_key(z, log_total, entropy)
            else:
                key = rank_key(z)
            if TIES:
                there = there & (key == tie)
                key = token.to(tl.int64)
            if COUNT:
                weight = there.to(tl.int64)
            else:
                weight = weights(z, floor, token, there, last, last_token)
            inside = there & (key <= middle)
            totals += tl.where(inside, weight, 0)
            belows = tl.maximum(belows, tl.where(inside, key, 0))
            aboves = tl.minimum(aboves, tl.where(there & (key > middle), key, FAR))
        total = tl.sum(totals)
        if total >= wanted:
            high = tl.max(belows)  # a key that is there, so few rounds are needed
        else:
            low = tl.min(aboves)
            before = total
    return low, wanted - before


@triton.jit
def last_kept(
    row, V, wanted, floor, last, last_token, log_total, entropy,
    COUNT: tl.constexpr, TYPICAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(key, id) of the last of the first tokens in this order that weigh `wanted` together."""
    key, rest = first(row, V, wanted, floor, last, last_token, log_total, entropy, 0, COUNT, TYPICAL, False, BLOCK)
    token, _ = first(row, V, rest, floor, last, last_token, log_total, entropy, key, COUNT, TYPICAL, True, BLOCK)
    return key, token
