"""The shared vocabulary: requests, sequences, and the input and output of an engine step. Of the package it imports
`sampling_params` only.

Terms. A *request* asks for `n` *sequences*. A sequence's tokens live in KV *blocks* of `block_size` tokens, listed in
its *block table*; the *slot* of a token is `block * block_size + offset`. A *step* runs one `Batch`: for each scheduled
sequence some consecutive *query* tokens (a prefill chunk, one decode token, or one token and its drafts).

`Batch`, `Transfers` and `StepResult` are what a backend sees: arrays and plain values, so that they can cross a process
(`wire`). Sequences stay with the control plane. They are msgspec structs, which are cheap to make: each step does.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from octavo.sampling_params import SamplingParams
from octavo.sampling_params import StructuredOutputs as StructuredOutputs  # users import it from here

U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Json = dict[str, Any]  # a JSON object


@dataclass(frozen=True, slots=True)
class SinkRecent:
    """Eviction inside a sequence: see `kv.eviction`. Both in tokens."""

    sinks: int = 16
    window: int = 1024


@dataclass(frozen=True, slots=True)
class SnapKV:
    """Eviction at the end of the prompt: see `kv.eviction`. budget: tokens that each KV head keeps, or up to 1 their
    share of the prompt. window: its last tokens, whose queries choose and which are kept. pool: of the scores."""

    budget: float = 0.5
    window: int = 32
    pool: int = 7


Eviction = SinkRecent | SnapKV


class Status(enum.Enum):
    WAITING = "waiting"
    LOADING = "loading"  # it has blocks, and some of them are being read from a tier below the pool
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Request:
    """One prompt with its parameters, as the engine sees it: token ids in, token ids out, no text.

    priority: lower runs first. deadline: `time.monotonic()` seconds after which the request ends with "deadline".
    cache_salt: only requests with the same salt share prefix blocks. `kv.prefix` says which salts keep them off disks.
    eos_token_ids: tokens that end a sequence unless `ignore_eos`. bad_word_ids: `bad_words` in token ids.
    """

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    seed: int = 0
    priority: int = 0
    deadline: float | None = None
    cache_salt: str = ""
    eos_token_ids: tuple[int, ...] = ()
    bad_word_ids: tuple[tuple[int, ...], ...] = ()
    grammar: Grammar | None = None  # `structured_outputs` compiled
    pooling: str | None = (
        None  # a mode of `processing.pooling`: return the prompt's hidden states, generate nothing (embeddings)
    )
    arrival: float = field(default_factory=time.monotonic)

    @property
    def wants_prompt_rows(self) -> bool:
        """Whether every prompt token needs a logit row, not only the last."""
        return self.params.prompt_logprobs is not None or self.pooling in ("mean", "cls")


@dataclass(slots=True, eq=False)
class Sequence:
    """One of a request's `n` answers. `token_ids` is prompt + output.

    num_computed_tokens: tokens that have been run, which is also the position of the next token to run.
    kv_length: filled slots of its blocks, which is also the index of the next token's slot. Both are equal while the
    cache keeps every token's KV. eviction: says which it keeps.

    A preempted sequence goes back to WAITING, with both 0, and keeps its tokens.
    """

    request: Request
    index: int
    token_ids: list[int]
    num_prompt_tokens: int
    max_length: int = 1 << 62  # tokens, prompt included, at which it ends with "length"; set when it is added
    eviction: Eviction | None = None
    num_computed_tokens: int = 0
    kv_length: int = 0
    num_cached_tokens: int = 0  # prompt tokens found in the prefix cache at first admission
    num_preemptions: int = 0
    num_scored_tokens: int = 0  # prompt tokens whose logprobs (or hidden states) have been returned
    block_table: list[int] = field(default_factory=list)
    block_keys: list[bytes] = field(default_factory=list)  # hash chain of its full blocks: see kv.prefix
    drafts: list[int] = field(default_factory=list)  # proposed for the next step, verified by it
    draft_parents: list[int] | None = None  # draft trees: each draft's index of its parent, -1 = none; None: a chain
    status: Status = Status.WAITING
    finish_reason: str | None = None  # "stop" | "length" | "abort" | "deadline" | "error"
    stop_reason: int | None = None  # the stop token that ended it; None for the end-of-sequence token
    cumulative_logprob: float = 0.0
    scheduled: float | None = None  # `time.monotonic()` at which it first ran
    sampler: Sampler | None = None  # attached when its first logit row is built

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    def delta(self) -> SequenceDelta:
        """A delta of the current state, without new tokens."""
        name, reason, stop = self.request.request_id, self.finish_reason, self.stop_reason
        return SequenceDelta(name, self.index, [], reason, stop, self.num_cached_tokens, self.scheduled)


class Grammar(Protocol):
    """Structured output, compiled: see `sampling.grammar`."""

    def matcher(self) -> Matcher:
        """A new sequence's state, at the start of the grammar."""


class Matcher(Protocol):
    """One sequence's state in its grammar."""

    @property
    def stopped(self) -> bool:
        """Whether only the end may follow."""

    def mask(self, seq: Sequence, position: int) -> U32:
        """[ceil(V / 32)]: the tokens allowed at `position`, which may lie after the sequence's drafts."""


class Sampler(Protocol):
    """The sampling state of a sequence between steps: see `sampling.state`."""

    @property
    def seed(self) -> int:
        """The seed of the sequence's random numbers."""

    @property
    def needs_tokens(self) -> bool:
        """Whether its rows of `SamplingArrays` depend on tokens before them (grammars, penalties, bad words)."""

    @property
    def steady_from(self) -> int:
        """From this position on, the sequence's rows of `SamplingArrays` differ only in their position."""


class SamplingArrays(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What the sampler needs, one entry a logit row, in a form that native code reads without Python.

    Sparse edits are in CSR form: row r owns entries starts[r] .. starts[r+1].
    The random number of a row depends on (seed, position) only: see `sampling.rules.uniform`.
    """

    temperature: F32  # [R]; 0 is greedy
    top_k: I32  # [R]; 0 is off
    top_p: F32  # [R]
    min_p: F32  # [R]
    typical_p: F32  # [R]
    repetition: F32  # [R]; 1 is off
    presence: F32  # [R]
    frequency: F32  # [R]
    seeds: U64  # [R]
    positions: I64  # [R]: index in the sequence of the token being chosen
    penalty_starts: I32  # [R+1]
    penalty_tokens: I32  # distinct tokens seen so far in the row's prompt or output
    penalty_counts: I32  # times in the output; 0 = only in the prompt
    bias_starts: I32  # [R+1]
    bias_tokens: I32
    bias_values: F32  # added to the logit; -inf bans the token
    mask_rows: I32  # [R]: row of `masks`, or -1
    masks: U32  # [M, ceil(V / 32)]: bit t % 32 of word t // 32 set = token t allowed
    plain_greedy: bool  # every row has temperature 0 and no edits, so argmax suffices; seeds and positions are 0


@dataclass(slots=True)
class ScheduledSequence:
    """One sequence of a batch, as the control plane sees it: its query tokens and its logit rows."""

    seq: Sequence
    num_tokens: int  # query tokens in this step
    num_drafts: int  # the last `num_drafts` of these are drafts under verification
    row_start: int  # its logit rows are row_start .. row_stop
    row_stop: int
    samples: bool  # False: a prefill chunk that does not reach the last known token
    forks: list[Sequence] = field(default_factory=list)  # n > 1: siblings that take the rows after the first
    parents: list[int] | None = None  # the drafts are a tree: see Sequence.draft_parents
    accepted: int = 0  # accepted drafts; set by commit, like the next field
    last_row: int = -1  # the logit row that chose the sequence's newest token


class Batch(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The input of one step: S sequences with T query tokens in all, R logit rows. All arrays are C-contiguous.

    A batch never changes once it is built, and neither do its arrays: a backend may keep it, send it, or still read it
    while the next one is built. Batches may share arrays.

    A token's position is its place in the text. Its slot is where its K and V go. It sees its sequence's context up to
    itself.

    Where `parents` is given, some rows are nodes of a draft tree: parents[t] is the row of node t's parent (the root
    is the sequence's last ordinary row), -1 for ordinary rows. A parent comes before its children. A sequence's rows
    lie in consecutive slots as always, but a node's position is its parent's + 1, so siblings share one. A node sees
    the tokens before the root, the root, its ancestors and itself, in the order of their positions: the result is
    bitwise as if these were in consecutive slots and the rest of the tree did not exist.

    Where `sinks` is given, sequences with sinks[s] > 0 evict (`kv.eviction`): a row at position t sees keys at
    positions below sinks[s], with its query rotated to sink_positions[t], and keys from position
    (t // 16 - windows[s] // 16) * 16 on, in layers without a window of their own. Blocks between the two may be missing
    from the table, whole; what follows them moves up. So the slots after the sinks' blocks hold positions that are
    larger than their index by a constant, which the sequence's first row shows.
    """

    token_ids: I32  # [T]; -1 - row, in `submit` only: what logit row `row` of the batch submitted before chose
    positions: I32  # [T]
    slot_mapping: I32  # [T]: where each token's K and V go
    query_starts: I32  # [S+1]: sequence s owns tokens query_starts[s] .. query_starts[s+1]
    context_lens: I32  # [S]: tokens of the sequence in the cache once this step has run
    block_tables: I32  # [S, W]: block ids; entries past the context are 0 and never read
    logit_rows: I32  # [R]: token rows whose logits are wanted; may repeat (n > 1)
    targets: I32  # [R]: -1 sample, else score this token instead of sampling (prompt_logprobs)
    sampling: SamplingArrays
    num_logprobs: int = -1  # -1: none wanted; n >= 0: logprob of the token and the n most likely
    want_logits: bool = False  # return the raw logits too (tests, custom processors)
    want_hidden: bool = False  # return the final hidden state of each logit row (embeddings)
    parents: I32 | None = None  # [T]; None: no draft trees
    sinks: I32 | None = None  # [S]; None: no sequence evicts
    windows: I32 | None = None  # [S]
    sink_positions: I32 | None = None  # [T]


class Transfers(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Copies of KV, to be made before the next batch runs: all moves in order, then stores, copies and loads.

    Moves come first: they finish the step before, and a block whose slots they fill may be copied or given away.
    Stores come before copies: an evicted block may be the target of a copy. Loads come last: the source of a copy may
    be released and loaded over in the same step.
    Making them twice would be wrong: a move's source may be an earlier move's target, and the step has written new
    tokens to both meanwhile. So they are not part of a batch. `kv.transfers` returns each once, and the engine makes it
    once, even if a failed step is repeated.

    Stores and loads connect the pool with the tiers below it: see `kv.store`. They need a backend that is
    `backends.base.Offloads`; rows are those of its stage.
    """

    moves: I32  # [M, 2]: (source, target) slots
    copies: I32  # [C, 2]: (source, target) blocks
    stores: I32 | None = None  # [S, 2]: (block, row)
    loads: I32 | None = None  # [L, 2]: (row, block)


class Compaction(msgspec.Struct, frozen=True, eq=False, gc=False):
    """SnapKV (2404.14469) of one sequence, to be made before the next batch runs and after transfers.

    The last tokens of its prompt run again, which writes the same values to the same slots. In each layer, for each KV
    head, their queries choose which keys to keep: `kv.snapkv.choose` says how. The kept keys and values are copied in
    the order of their positions to the entries of `targets`, the new table.
    """

    token_ids: I32  # [window]: the prompt's last tokens
    block_table: I32  # [W]: the prompt's blocks
    length: int  # tokens of the prompt, which the cache holds
    targets: I32  # [ceil(keep / block_size)]: blocks
    keep: int  # entries a KV head keeps, those of the window included
    pool: int


class StepResult(msgspec.Struct, eq=False, gc=False):
    """The output of one step, one entry a logit row.

    logprobs are of the model's own distribution: before temperature, penalties and masks (vLLM's "raw_logprobs").
    """

    token_ids: I32  # [R]: the sampled token, or the target
    finite: NDArray[np.bool_]  # [R]: False if a logit was NaN or all were -inf: only that request fails
    logprobs: F32 | None = None  # [R]
    ranks: I32 | None = None  # [R]: 1 = the most likely
    top_ids: I32 | None = None  # [R, n], most likely first
    top_logprobs: F32 | None = None  # [R, n]
    logits: F32 | None = None  # [R, V]
    hidden: F32 | None = None  # [R, D]


class TokenLogprob(msgspec.Struct, array_like=True, gc=False):
    """One entry of `logprobs`: the chosen token's own value, then the most likely tokens as (id, logprob)."""

    token_id: int
    logprob: float
    rank: int
    top: list[tuple[int, float]]


class SequenceDelta(msgspec.Struct, array_like=True, gc=False):
    """What one step added to one sequence. It is self-contained, so it can be sent to another process.

    The fields that follow `scheduled` are rare.
    `hidden` stays in the engine's process: see `processing.pooling.Pooling`.
    """

    request_id: str
    index: int
    token_ids: list[int]
    finish_reason: str | None = None  # not None: the last delta of this sequence
    stop_reason: int | None = None  # see Sequence
    num_cached_tokens: int = 0  # see Sequence
    scheduled: float | None = None  # see Sequence
    logprobs: list[TokenLogprob] | None = None  # one a token of `token_ids`
    prompt_logprobs: list[TokenLogprob] | None = None  # for prompt tokens scored in this step, in order
    hidden: F32 | None = None  # [tokens, D]: of a pooled request's prompt tokens in this step
    pooled: F64 | None = None  # [D]: what a pooled request asked for, with its last delta
    error: tuple[str, str | None] | None = None  # with "error": message and field, if the user can correct it

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None


Metadata = Mapping[str, Any]
