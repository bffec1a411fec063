"""How a row of edited logits chooses its token: `rules.sample`, one program a row."""

import triton
import triton.language as tl

from octavo.backends.cuda.kernels.best import LOWEST, pack, possible, token_of, value_of
from octavo.backends.cuda.kernels.edit import FLOOR, POSITION, SEED, TEMPERATURE, TOP_K, TOP_P, TYPICAL_P, real, whole
from octavo.backends.cuda.kernels.order import FAR, ONE, last_kept, surprise_key, weights


@triton.jit
def share(part, total):
    """The least integer >= part * total, and at least 1."""
    exact = part.to(tl.float64) * total.to(tl.float64)
    least = exact.to(tl.int64)
    least += (least.to(tl.float64) < exact).to(tl.int64)
    return tl.maximum(least, 1)


@triton.jit
def weight_of_all(row, V, floor, last, last_token, BLOCK: tl.constexpr):
    totals = tl.zeros((BLOCK,), tl.int64)
    for start in range(0, V, BLOCK):
        token = start + tl.arange(0, BLOCK)
        z = tl.load(row + token, mask=token < V, other=float("-inf"))
        totals += weights(z, floor, token, token < V, last, last_token)
    return tl.sum(totals)


@triton.jit
def draw(
    row, V, u, total, floor, last, last_token, log_total, entropy, far, far_token,
    TYPICAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The first token, in the order of ids, up to which tokens weigh more than u of the total.

    TYPICAL: only those up to (far, far_token) in the order of surprise."""
    goal = (u.to(tl.float64) * total.to(tl.float64)).to(tl.int64)
    chosen, sum = tl.full((), 0, tl.int32), tl.full((), 0, tl.int64)
    for start in range(0, V, BLOCK):
        token = start + tl.arange(0, BLOCK)
        z = tl.load(row + token, mask=token < V, other=float("-inf"))
        weight = weights(z, floor, token, token < V, last, last_token)
        if TYPICAL:
            key = surprise_key(z, log_total, entropy)
            weight = tl.where((key < far) | ((key == far) & (token <= far_token)), weight, 0)
        more = tl.sum(weight)
        if (sum <= goal) & (sum + more > goal):
            chosen = start + tl.sum((sum + tl.cumsum(weight, 0) <= goal).to(tl.int32))
        sum += more
    return chosen, sum


@triton.jit
def mix(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def long(choices, field, rows, i):
    low = whole(choices, field, rows, i).to(tl.uint32, bitcast=True).to(tl.uint64)
    return low + (whole(choices, field + 1, rows, i).to(tl.uint32, bitcast=True).to(tl.uint64) << 32)


@triton.jit
def uniform(seed, position):
    """`rules.uniform`"""
    hashed = mix(mix(seed + 0x9E3779B97F4A7C15) + (position + 1) * 0x9E3779B97F4A7C15)
    return (hashed >> 40).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08  # 2^-24


@triton.jit
def entropy_of(row, V, floor, last, last_token, total, BLOCK: tl.constexpr):
    """(log of the weights' sum, entropy in nats), float64; lane by lane, so the order is the block's."""
    sum = total.to(tl.float64) / ONE
    log_total = tl.log(sum)
    surprise = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, V, BLOCK):
        token = start + tl.arange(0, BLOCK)
        z = tl.load(row + token, mask=token < V, other=float("-inf"))
        weight = weights(z, floor, token, token < V, last, last_token)
        of_one = tl.where(weight > 0, log_total - z.to(tl.float64), 0.0)
        surprise += weight.to(tl.float64) / ONE / sum * of_one
    return log_total, tl.sum(surprise)


@triton.jit(do_not_specialize=["rows"])
def sample(out, edited, choices, rows, V, BLOCK: tl.constexpr):
    """out int32 [R, 4]: the tokens of the rows that choose, and whether they could. `edited` [R, V] is written over.

    Grid: rows, one program each."""
    i = tl.program_id(0)
    to = tl.load(choices + i).to(tl.int64)
    row = edited + to * V
    temperature = real(choices, TEMPERATURE, rows, i)
    best = tl.full((BLOCK,), LOWEST, tl.int64)
    for start in range(0, V, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = tl.load(row + token, mask=token < V, other=0.0)
        best = tl.maximum(best, tl.where(token < V, pack(x, token), LOWEST))
    packed = tl.max(best)
    finite = possible(packed)
    chosen = tl.where(finite, token_of(packed), 0)
    if finite & (temperature > 0):
        top = tl.div_rn(value_of(packed), temperature)
        for start in range(0, V, BLOCK):
            token = start + tl.arange(0, BLOCK)
            x = tl.load(row + token, mask=token < V, other=0.0)
            tl.store(row + token, tl.div_rn(x, temperature) - top, mask=token < V)
        tl.debug_barrier()
        chosen = pick(row, choices, rows, i, V, BLOCK)
    tl.store(out + 4 * to, chosen)
    tl.store(out + 4 * to + 1, tl.load(out + 4 * to + 1) & finite.to(tl.int32))


@triton.jit
def pick(row, choices, rows, i, V, BLOCK: tl.constexpr):
    """From z = (logit - the largest) / temperature."""
    floor, top_k = real(choices, FLOOR, rows, i), whole(choices, TOP_K, rows, i)
    top_p, typical_p = real(choices, TOP_P, rows, i), real(choices, TYPICAL_P, rows, i)
    u = uniform(long(choices, SEED, rows, i), long(choices, POSITION, rows, i))
    last, last_token = tl.full((), FAR, tl.int64), tl.full((), 0, tl.int64)
    if (top_k > 0) & (top_k < V):
        last, last_token = last_kept(row, V, top_k.to(tl.int64), floor, last, last_token, 0.0, 0.0, True, False, BLOCK)
    total = weight_of_all(row, V, floor, last, last_token, BLOCK)
    if top_p < 1:
        wanted = share(top_p, total)
        last, last_token = last_kept(row, V, wanted, floor, last, last_token, 0.0, 0.0, False, False, BLOCK)
        total = weight_of_all(row, V, floor, last, last_token, BLOCK)
    if typical_p < 1:
        log_total, entropy = entropy_of(row, V, floor, last, last_token, total, BLOCK)
        far, far_token = last_kept(row, V, share(typical_p, total), floor, last, last_token, log_total, entropy, False,
                                   True, BLOCK)  # fmt: skip
        _, total = draw(row, V, u, total, floor, last, last_token, log_total, entropy, far, far_token, True, BLOCK)
        chosen, _ = draw(row, V, u, total, floor, last, last_token, log_total, entropy, far, far_token, True, BLOCK)
    else:
        chosen, _ = draw(row, V, u, total, floor, last, last_token, 0.0, 0.0, 0, 0, False, BLOCK)
    return chosen
