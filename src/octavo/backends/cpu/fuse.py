"""Fusion: peephole passes over a recording.

Each pass looks for one pattern and rewrites it. Together they turn a decoder layer into: norm + quantise; q, k and v in
one product; head norms + rotation + cache write; attention; quantise; product + residual; norm + quantise; gate and up
in one product; quantise; product + residual.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from octavo import _native
from octavo.backends.cpu.records import (
    Add,
    Attend,
    Gated,
    Linear,
    LogitRows,
    Norm,
    Record,
    Recording,
    Turn,
    Value,
    reads,
    writes,
)

Pass = Callable[["Recording"], list[Record]]


def fuse(recording: Recording) -> Recording:
    """The recording with every pass applied in turn."""
    for rewrite in (wanted_rows, prepare_heads, gate_up, residuals, shared_inputs, norms_into_products):
        recording = Recording(rewrite(recording), recording.widths)
    return recording


def _producers(records: list[Record]) -> dict[Value, Record]:
    return {value: record for record in records for value, _ in writes(record)}


def _uses(records: list[Record]) -> Counter[Value]:
    return Counter(value for record in records for value in reads(record))


def wanted_rows(recording: Recording) -> list[Record]:
    """After the last attention no token looks at another: only the rows whose logits are wanted go on from there."""
    records = recording.records
    start = max((i for i, record in enumerate(records) if isinstance(record, Attend)), default=len(records)) + 1
    end = next((i for i, record in enumerate(records) if isinstance(record, LogitRows)), 0)
    if start >= end:
        return records
    tail, gather = records[start:end], records[end]
    assert isinstance(gather, LogitRows)
    made = _producers(tail)
    names: dict[Value, Value] = {}  # what comes from before, and its wanted rows
    for value in (value for record in tail for value in reads(record)):
        if value not in made and value not in names:
            names[value] = len(recording.widths)
            recording.widths.append(recording.widths[value])
    for record in tail:
        _rename(record, names)
    for record in records[end + 1 :]:
        _rename(record, {gather.out: gather.x})
    return [*records[:start], *(LogitRows(*pair) for pair in names.items()), *tail, *records[end + 1 :]]


def _rename(record: Record, names: dict[Value, Value]) -> None:
    """Gives values that it reads other names. For records as they were recorded: fused ones read more."""
    for field in ("x", "y", "gate", "up"):
        if (value := getattr(record, field, None)) in names:
            setattr(record, field, names[value])


def prepare_heads(recording: Recording) -> list[Record]:
    """Attention takes over the rotation of q and k and their norms by head."""
    records, made = recording.records, _producers(recording.records)
    gone: set[int] = set()

    def back(value: Value, kind: type[Turn] | type[Norm]) -> Record | None:
        source = made.get(value)
        if not isinstance(source, kind):
            return None
        gone.add(id(source))
        return source

    for record in records:
        if not isinstance(record, Attend):
            continue
        turn_q, turn_k = back(record.q, Turn), back(record.k, Turn)
        if isinstance(turn_q, Turn) and isinstance(turn_k, Turn):
            assert turn_q.rope is turn_k.rope, "q and k are rotated alike"
            record.rope, record.q, record.k = turn_q.rope, turn_q.x, turn_k.x
        norm_q, norm_k = back(record.q, Norm), back(record.k, Norm)
        if isinstance(norm_q, Norm) and isinstance(norm_k, Norm):
            record.q_norm, record.k_norm, record.q, record.k = norm_q, norm_k, norm_q.x, norm_k.x
    return [record for record in records if id(record) not in gone]


def gate_up(recording: Recording) -> list[Record]:
    """activation(gate x) * (up x) as one product with two weights, where both read the same x."""
    records, made, uses = recording.records, _producers(recording.records), _uses(recording.records)
    gone: set[int] = set()
    out: list[Record] = []
    for record in records:
        if isinstance(record, Gated):
            gate, up = made[record.gate], made[record.up]
            if (
                isinstance(gate, Linear)
                and isinstance(up, Linear)
                and gate.x == up.x
                and uses[record.gate] == uses[record.up] == 1
                and gate.products[0].bias is up.products[0].bias is None
                and _native.act_spec(gate.products[0].weight.type)[0] == _native.act_spec(up.products[0].weight.type)[0]
            ):
                product = gate.products[0]
                product.up, product.activation, product.out = up.products[0].weight, record.activation, record.out
                gone |= {id(up), id(record)}
        out.append(record)
    return [record for record in out if id(record) not in gone]


def residuals(recording: Recording) -> list[Record]:
    """x + f(...) is added into x's buffer by f itself, where nothing reads x afterwards."""
    records, made, uses = recording.records, _producers(recording.records), _uses(recording.records)
    last = {value: i for i, record in enumerate(records) for value in reads(record)}
    out: list[Record] = []
    for i, record in enumerate(records):
        if isinstance(record, Add) and last[record.x] == i and uses[record.y] == 1:
            source = made[record.y]
            # f must come right before the addition: nothing between them may see x already changed.
            if isinstance(source, Linear | Norm) and out and out[-1] is source:
                target = source.products[0] if isinstance(source, Linear) else source
                target.into, target.out = record.x, record.out
                continue
        out.append(record)
    return out


def shared_inputs(recording: Recording) -> list[Record]:
    """Neighbouring products of one input become one record: it is quantised once, and nobody waits between them."""
    out: list[Record] = []
    for record in recording.records:
        previous = out[-1] if out else None
        if isinstance(record, Linear) and isinstance(previous, Linear) and previous.x == record.x:
            previous.products += record.products
        else:
            out.append(record)
    return out


def norms_into_products(recording: Recording) -> list[Record]:
    """A norm of whole rows whose only reader is a product is done while quantising."""
    records, uses = recording.records, _uses(recording.records)
    out: list[Record] = []
    for record in records:
        previous = out[-1] if out else None
        if (
            isinstance(record, Linear)
            and isinstance(previous, Norm)
            and previous.out == record.x
            and previous.into is None
            and uses[record.x] == 1
            and recording.widths[previous.x] == previous.weight.shape[0]
        ):
            out.pop()
            record.norm, record.x = previous, previous.x
        out.append(record)
    return out
