"""Edits of logits before a token is chosen: mask, bias, penalties, as `rules.apply_edits` has them."""

import triton
import triton.language as tl

# The fields of the rows that choose, int32 [FIELDS, rows], at the beginning of the array that `tail.choices` makes: the
# row; temperature, floor, top_k, top_p, typical_p; repetition, frequency, presence; seed and position, two words each;
# where the mask begins (-1: none); where the biases begin, how many; the same of the penalties.
FIELDS = 18
TEMPERATURE, FLOOR, TOP_K, TOP_P, TYPICAL_P = (tl.constexpr(field) for field in range(1, 6))
REPETITION, FREQUENCY, PRESENCE = (tl.constexpr(field) for field in range(6, 9))
SEED, POSITION, MASK, BIASES, PENALTIES = (tl.constexpr(field) for field in (9, 11, 13, 14, 16))


@triton.jit
def whole(choices, field, rows, i):
    return tl.load(choices + field * rows + i)


@triton.jit
def real(choices, field, rows, i):
    return tl.load(choices + field * rows + i).to(tl.float32, bitcast=True)


@triton.jit
def allowed(choices, mask, token, there):
    """Whether the bits that begin at `mask` have the token; -1: all have it."""
    word = tl.load(choices + mask + (token >> 5), mask=there & (mask >= 0), other=-1)
    return ((word >> (token & 31)) & 1) != 0


@triton.jit(do_not_specialize=["rows"])
def edit(edited, logits, choices, rows, V, stride, BLOCK: tl.constexpr, ENTRIES: tl.constexpr):
    """edited f32 [R, V]: a copy of the rows of `logits` that choose, edited. Grid: rows."""
    i = tl.program_id(0)
    row = tl.load(choices + i).to(tl.int64)
    logits += row * stride
    edited += row * V
    mask = whole(choices, MASK, rows, i)
    biases, seen = whole(choices, BIASES + 1, rows, i), whole(choices, PENALTIES + 1, rows, i)
    for start in range(0, V, BLOCK):
        token = start + tl.arange(0, BLOCK)
        there = token < V
        x = tl.load(logits + token, mask=there, other=0.0)
        tl.store(edited + token, tl.where(allowed(choices, mask, token, there), x, float("-inf")), mask=there)
    tl.debug_barrier()
    add_biases(edited, logits, choices, mask, whole(choices, BIASES, rows, i), biases, ENTRIES)
    tl.debug_barrier()
    repetition, frequency = real(choices, REPETITION, rows, i), real(choices, FREQUENCY, rows, i)
    presence = real(choices, PRESENCE, rows, i)
    penalise(edited, choices, whole(choices, PENALTIES, rows, i), seen, repetition, frequency, presence, ENTRIES)


@triton.jit
def add_biases(edited, logits, choices, mask, at, count, ENTRIES: tl.constexpr):
    """Entries: (token, value). A token may have several: each of its lanes adds all of them, in order."""
    for start in range(0, count, ENTRIES):
        entry = start + tl.arange(0, ENTRIES)
        there = entry < count
        token = tl.load(choices + at + 2 * entry, mask=there, other=0)
        x = tl.load(logits + token, mask=there, other=0.0)
        x = tl.where(allowed(choices, mask, token, there), x, float("-inf"))
        for other in range(count):
            value = tl.load(choices + at + 2 * other + 1).to(tl.float32, bitcast=True)
            x = tl.where(tl.load(choices + at + 2 * other) == token, x + value, x)
        tl.store(edited + token, x, mask=there)


@triton.jit
def penalise(edited, choices, at, count, repetition, frequency, presence, ENTRIES: tl.constexpr):
    """Entries: (token, times in the output), each token once."""
    for start in range(0, count, ENTRIES):
        entry = start + tl.arange(0, ENTRIES)
        there = entry < count
        token = tl.load(choices + at + 2 * entry, mask=there, other=0)
        times = tl.load(choices + at + 2 * entry + 1, mask=there, other=0)
        x = tl.load(edited + token, mask=there, other=0.0)
        x = tl.where(x > 0, tl.div_rn(x, repetition), x * repetition)
        x = x - frequency * times.to(tl.float32)
        tl.store(edited + token, tl.where(times > 0, x - presence, x), mask=there)
