"""How a token is chosen: the readable reference in numpy. Native code must match it.

The order is vLLM's. For each logit row, on its own (no row ever reads another):

1. log-probabilities that are reported come from the raw logits;
2. allowed-token mask, then the bias entries (a ban is a bias of -inf)            `apply_edits`
3. repetition, then frequency, then presence penalty                             `apply_edits`
4. temperature 0: the largest logit; of equal ones the lowest token id           `sample`
5. divide by the temperature; min_p; top_k; top_p; typical_p                     `weights`
6. draw: inverse of the cumulative distribution over token ids in id order       `draw`

Arithmetic, for a twin: float32 unless said otherwise, each operation rounded once (no fused multiply-add). exp is in
float32; sums are float64, cumulative ones in the order stated. So two implementations differ only in the last bit of
exp. They choose different tokens only where a cumulative mass is within that rounding of its threshold.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from octavo.types import F32, I32, I64, U32, U64, Batch, SamplingArrays, StepResult

F64 = NDArray[np.float64]
NEG_INF = np.float32(-np.inf)
NO_WEIGHT = np.float32(-87)  # exp below this is (nearly) subnormal, which differs between machines: taken as 0
GAMMA = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: splitmix64's increment


def _mix(z: U64) -> U64:
    """splitmix64's finaliser: a bijection of 64 bits in which every input bit moves every output bit."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(seeds: U64, positions: I64) -> F32:
    """Counter-based random numbers in [0, 1), a function of (seed, position) only; float32 [R].

    All in unsigned 64-bit arithmetic modulo 2^64, with G = 0x9E3779B97F4A7C15 and the position in two's complement:

        mix(z):  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;  z ^ (z >> 31)
        h = mix(mix(seed + G) + (position + 1) * G);  u = float32(h >> 40) * 2^-24

    Hashing the seed first keeps the streams of neighbouring seeds apart. (Steele, Lea, Flood: "Fast splittable
    pseudorandom number generators", OOPSLA 2014.)
    """
    gamma = np.uint64(GAMMA)
    counter = (positions.astype(np.uint64) + np.uint64(1)) * gamma
    high = _mix(_mix(seeds.astype(np.uint64) + gamma) + counter) >> np.uint64(40)
    return high.astype(np.float32) * np.float32(2.0**-24)


def finite(logits: F32) -> NDArray[np.bool_]:
    """[R]: False where a logit is NaN or +inf, or none is above -inf, so that no token can be chosen."""
    possible: NDArray[np.bool_] = np.isfinite(logits.max(axis=-1))  # the maximum of a row with a NaN is NaN
    return possible


def apply_edits(logits: F32, arrays: SamplingArrays) -> F32:
    """Mask, bias and penalties, in that order: a new [R, V] array (`logits` itself when no row has an edit)."""
    if arrays.plain_greedy or not _edited(arrays):
        return logits
    edited = logits.copy()
    for row, x in enumerate(edited):
        if arrays.mask_rows[row] >= 0:
            x[~unpack(arrays.masks[arrays.mask_rows[row]], x.size)] = NEG_INF
        entries = slice(arrays.bias_starts[row], arrays.bias_starts[row + 1])
        np.add.at(x, arrays.bias_tokens[entries], arrays.bias_values[entries])  # a token may have several entries
        _penalise(x, row, arrays)
    return edited


def _edited(arrays: SamplingArrays) -> bool:
    return bool(arrays.penalty_tokens.size or arrays.bias_tokens.size or (arrays.mask_rows >= 0).any())


def _penalise(x: F32, row: int, arrays: SamplingArrays) -> None:
    """x / r for positive, x * r for other logits of seen tokens (CTRL, 1909.05858); then minus frequency * count; then
    minus presence where count > 0. Frequency and presence look at the output alone."""
    entries = slice(arrays.penalty_starts[row], arrays.penalty_starts[row + 1])
    tokens, counts = arrays.penalty_tokens[entries], arrays.penalty_counts[entries]
    seen = x[tokens]
    repetition = arrays.repetition[row]
    seen = np.where(seen > 0, seen / repetition, seen * repetition)
    seen = seen - arrays.frequency[row] * counts.astype(np.float32)
    x[tokens] = np.where(counts > 0, seen - arrays.presence[row], seen)


def pack(token_ids: I32, vocab_size: int) -> U32:
    """A row of `SamplingArrays.masks` that allows these ids."""
    words = np.zeros((vocab_size + 31) // 32, np.uint32)
    np.bitwise_or.at(words, token_ids >> 5, np.uint32(1) << (token_ids & 31).astype(np.uint32))
    return words


def unpack(words: U32, vocab_size: int) -> NDArray[np.bool_]:
    """[V]: which ids a mask row allows."""
    return np.unpackbits(words.astype("<u4").view(np.uint8), count=vocab_size, bitorder="little").astype(np.bool_)


def filter_probs(edited: F32, arrays: SamplingArrays) -> F32:
    """[R, V]: the distribution a token is drawn from: `edited` after temperature and truncation; one-hot if greedy.

    This is the p of speculative sampling. Each value is the float32 rounding of weight / (float64 sum of weights).
    """
    p = np.zeros_like(edited)
    for row, x in enumerate(edited):
        if arrays.temperature[row] == 0:
            p[row, x.argmax()] = 1
        else:
            w = weights(x, row, arrays)
            p[row] = w / w.sum(dtype=np.float64)
    return p


def weights(x: F32, row: int, arrays: SamplingArrays) -> F32:
    """[V]: unnormalised probabilities of a row of edited logits, exp(z - max z) with z = x / temperature; 0 = cut off.

    Each filter sees the renormalised result of the one before it and keeps at least one token. The order of tokens
    below is falling z and, of equal z, rising token id.

    min_p: keep z - max z >= float32(log(min_p)), i.e. p >= min_p * max p.
    top_k: keep the first k.
    top_p (1904.09751): keep a token while the mass of those before it is < top_p of the whole.
    typical_p (2202.00666): with H the entropy in nats, order by |(-log p) - H| and then id; keep as top_p does.
    """
    z = x / arrays.temperature[row]
    z = z - z.max()
    w: F32 = np.exp(z)
    w[z < NO_WEIGHT] = 0
    if (min_p := arrays.min_p[row]) > 0:
        w[z < np.float32(math.log(min_p))] = 0
    top_k, top_p = int(arrays.top_k[row]), float(arrays.top_p[row])
    if 0 < top_k < z.size or top_p < 1:
        order = np.argsort(-z, kind="stable")
        if 0 < top_k < z.size:
            w[order[top_k:]] = 0
        if top_p < 1:
            _cut(w, order, top_p)
    if arrays.typical_p[row] < 1:
        _cut(w, _typical_order(z, w), float(arrays.typical_p[row]))
    return w


def _cut(w: F32, order: NDArray[np.intp], mass: float) -> None:
    """Zeroes the tokens before which, in this order, at least `mass` of the total lies. Sums float64, in this order."""
    cumulative = np.cumsum(w[order], dtype=np.float64)
    keep = 1 + np.searchsorted(cumulative[:-1], mass * cumulative[-1], side="left")
    w[order[keep:]] = 0


def _typical_order(z: F32, w: F32) -> NDArray[np.intp]:
    """Token ids by the distance of their surprise from the entropy, float64; tokens already cut off come last."""
    kept = np.flatnonzero(w)
    total = w.sum(dtype=np.float64)
    surprise = math.log(total) - z[kept].astype(np.float64)
    entropy = float((w[kept].astype(np.float64) / total * surprise).sum())
    distance = np.abs(surprise - entropy)
    return kept[np.argsort(distance, kind="stable")]


def draw(w: F32, u: float) -> int:
    """The first token id whose cumulative weight (float64, in id order) exceeds u * total. Never one of weight 0."""
    cumulative = np.cumsum(w, dtype=np.float64)
    index = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
    return min(index, int(np.flatnonzero(w)[-1]))  # u * total may round up to the total


def sample(logits: F32, arrays: SamplingArrays, targets: I32) -> I32:
    """[R]: the chosen token of each row of raw logits [R, V], or its target where that is not -1.

    A row for which `finite(apply_edits(...))` is False gets 0; the engine must fail that request.
    """
    edited = apply_edits(logits, arrays)
    possible = finite(edited)
    chosen = np.where(possible, edited.argmax(axis=-1), 0)
    us = uniform(arrays.seeds, arrays.positions)
    for row in np.flatnonzero((arrays.temperature > 0) & (targets < 0) & possible):
        chosen[row] = draw(weights(edited[row], int(row), arrays), float(us[row]))
    return np.where(targets >= 0, targets, chosen).astype(np.int32)


def logprobs(logits: F32) -> F32:
    """[R, V]: log softmax of the raw logits: float32((x - max) - log(sum)), the sum and the subtraction in float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, dtype=np.float64, keepdims=True)
    return np.asarray(shifted - np.log(total), np.float32)


def ranks(logits: F32, token_ids: I32) -> I32:
    """[R]: 1 + the number of tokens that come before this one (larger logit, or equal and a lower id)."""
    chosen = np.take_along_axis(logits, token_ids[:, None], axis=-1)
    ids = np.arange(logits.shape[-1])
    before = (logits > chosen) | ((logits == chosen) & (ids < token_ids[:, None]))
    return np.asarray(1 + before.sum(axis=-1), np.int32)


def top(values: F32, count: int) -> tuple[I32, F32]:
    """([R, n] ids, [R, n] values) of the n largest of each row, largest first, equal ones by rising id."""
    ids = np.argsort(-values, axis=-1, kind="stable")[:, :count]
    return ids.astype(np.int32), np.take_along_axis(values, ids, axis=-1)


def result(logits: F32, batch: Batch) -> StepResult:
    """A whole step result from raw logits [R, V], for backends without a sampler."""
    targets = batch.targets
    possible = finite(logits) & ((targets >= 0) | finite(apply_edits(logits, batch.sampling)))
    chosen = sample(logits, batch.sampling, targets)
    answer = StepResult(chosen, possible, logits=logits if batch.want_logits else None)
    if batch.num_logprobs >= 0:
        values = logprobs(logits)
        answer.logprobs = np.take_along_axis(values, chosen[:, None], axis=-1)[:, 0]
        answer.ranks = ranks(logits, chosen)
        answer.top_ids, answer.top_logprobs = top(values, batch.num_logprobs)
    return answer
