"""Log-probabilities from raw logits: of the chosen token, with its rank, and of the likeliest ones."""

import triton
import triton.language as tl

from octavo.backends.cuda.kernels.best import LOWEST, pack, token_of, value_of


@triton.jit
def logprob(x, largest, log_total):
    return ((x - largest).to(tl.float64) - log_total).to(tl.float32)


@triton.jit(do_not_specialize=["N"])
def logprobs(
    out, tops, logits, bests, N, V, stride, CHUNKS: tl.constexpr, COUNT: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Of a row: out int32 [R, 4] gets the logprob and the rank of its token (`rules.logprobs`, `rules.ranks`), and tops
    int32 [R, 2, N] the ids of the N likeliest, then their logprobs (`rules.top`).

    bests: as `best` leaves it. COUNT: CHUNKS, up to a power of two. Grid: R."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    c = tl.arange(0, COUNT)
    largest = value_of(tl.max(tl.load(bests + row * CHUNKS + c, mask=c < CHUNKS, other=LOWEST)))
    lane = tl.arange(0, CHUNK)
    total = tl.zeros((CHUNK,), tl.float64)
    for start in range(0, V, CHUNK):
        x = tl.load(logits + start + lane, mask=start + lane < V, other=float("-inf"))
        total += tl.exp(x - largest).to(tl.float64)  # lane by lane, so the order is the block's
    log_total = tl.log(tl.sum(total))
    chosen = tl.load(out + 4 * row)
    value = tl.load(logits + chosen)
    own = pack(value, chosen)
    before = tl.zeros((CHUNK,), tl.int32)
    found = tl.full((COUNT,), LOWEST, tl.int64)  # each chunk's likeliest token that is not in `tops` yet
    for chunk in range(0, CHUNKS):
        token = chunk * CHUNK + lane
        there = token < V
        x = tl.load(logits + token, mask=there, other=0.0)
        before += (there & (pack(x, token) > own)).to(tl.int32)
        if N > 0:
            likely = pack(logprob(x, largest, log_total), token)  # logits that differ may have one logprob
            found = tl.where(c == chunk, tl.max(tl.where(there, likely, LOWEST)), found)
    tl.store(out + 4 * row + 2, logprob(value, largest, log_total).to(tl.int32, bitcast=True))
    tl.store(out + 4 * row + 3, 1 + tl.sum(before))
    tops += row * 2 * N
    for i in range(N):
        next = tl.max(found)
        tl.store(tops + i, token_of(next))
        tl.store(tops + N + i, value_of(next).to(tl.int32, bitcast=True))
        chunk = token_of(next) // CHUNK
        token = chunk * CHUNK + lane
        there = token < V
        likely = pack(logprob(tl.load(logits + token, mask=there, other=0.0), largest, log_total), token)
        left = tl.max(tl.where(there & (likely < next), likely, LOWEST))
        found = tl.where(c == chunk, left, found)
