"""Trees: merging chains, their rows in a batch, the accepted path. The null backend hashes each row's whole context,
so a wrong slot, position or ancestor changes the output."""

from __future__ import annotations

import random

import numpy as np
import pytest

from octavo.sampling_params import SamplingParams
from octavo.scheduler import tree
from octavo.spec.tree import merge
from octavo.types import Batch, Sequence, StepResult, Transfers
from tests.unit.control import RandomTrees, drain, engine, prompt, request


def test_chains_merge_where_they_agree() -> None:
    guess = merge([[1, 2, 3], [1, 4], [5], [1, 2, 6]], limit=10)
    assert guess.tokens == [1, 2, 3, 4, 5, 6]
    assert guess.parents == [-1, 0, 1, 0, -1, 1]
    assert tree.depths(guess.parents) == [1, 2, 3, 2, 1, 3]
    assert tree.path_to(5, guess.parents) == [0, 1, 5]


def test_a_tree_is_cut_at_its_limit_and_a_chain_is_no_tree() -> None:
    assert merge([[1, 2, 3], [4, 5]], limit=4).tokens == [1, 2, 3, 4]
    assert merge([[1, 2, 3], [1, 2]], limit=9).parents is None
    assert merge([], limit=4).tokens == []


def test_the_path_follows_the_model_s_own_choices() -> None:
    drafts, parents = [1, 2, 3, 4, 5, 6], [-1, 0, 1, 0, -1, 1]
    assert tree.accepted_path([1, 4, 0, 0, 9, 0, 0], drafts, parents) == [0, 3]
    assert tree.accepted_path([5, 0, 0, 0, 0, 7, 0], drafts, parents) == [4]
    assert tree.accepted_path([8, 0, 0, 0, 0, 0, 0], drafts, parents) == []


def test_compaction_never_overwrites_what_it_still_needs() -> None:
    assert tree.compaction(7, [0, 3, 5]) == [(10, 8), (12, 9)]
    assert tree.compaction(7, [1, 2, 5]) == [(8, 7), (9, 8), (12, 9)]
    assert tree.compaction(7, [0, 1, 2]) == []


@pytest.mark.parametrize("blocks", [200, 22])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_trees_change_nothing(blocks: int, temperature: float) -> None:
    params = SamplingParams(temperature=temperature, max_tokens=25, logprobs=2)
    shared = prompt(10, seed=9)
    items = [request(str(i), shared + prompt(5 + i, seed=i), params, seed=i) for i in range(8)]
    items.append(request("many", shared, SamplingParams(temperature=temperature, n=3, max_tokens=20), seed=99))
    truth = drain(engine(blocks=200), items)
    speculative = engine(blocks=blocks, proposer=RandomTrees(truth, random.Random(blocks)))
    assert drain(speculative, items) == truth
    stats = speculative.stats
    assert stats.accepted_tokens > 50 and stats.backend_errors == 0
    assert blocks > 100 or stats.preemptions > 0


def test_prefixes_of_what_was_compacted_can_be_shared() -> None:
    """Later prompts find the blocks that hold a tree's accepted paths."""
    first = request("first", prompt(6), SamplingParams(temperature=0, max_tokens=30))
    truth = drain(engine(), [first])
    speculative = engine(proposer=RandomTrees(truth, random.Random(3)))
    assert drain(speculative, [first]) == truth
    longer = first.prompt_token_ids + truth["first", 0].token_ids
    again = request("again", longer, SamplingParams(temperature=0, max_tokens=5))
    (seq,) = speculative.add(again)
    speculative.speculate(None)
    answer = drain(speculative)
    assert seq.num_cached_tokens > 20
    assert answer == drain(engine(), [again])


def test_a_step_that_fails_does_not_repeat_its_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend fails after it ran the step, so each sequence runs again alone. Repeated moves would spoil its KV."""
    params = SamplingParams(temperature=0, max_tokens=60)
    items = [request("a", prompt(9), params), request("b", prompt(5, 1), params)]
    truth = drain(engine(), items)
    small = engine(proposer=RandomTrees(truth, random.Random(1)))
    run, transfer, made = small._backend.run, small._backend.transfer, []

    def noted(transfers: Transfers) -> None:
        made.append(transfers)
        transfer(transfers)

    def dying(batch: Batch) -> StepResult:
        result = run(batch)
        if made and len(batch.context_lens) > 1:
            raise RuntimeError("died late")
        return result

    monkeypatch.setattr(small._backend, "run", dying)
    monkeypatch.setattr(small._backend, "transfer", noted)
    assert drain(small, items) == truth
    assert small.stats.backend_errors > 3 and len(made) > 3


def test_a_transfer_that_fails_is_not_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool's content is unknown then, so the engine must not continue."""
    item = request("a", prompt(9), SamplingParams(temperature=0, max_tokens=60))
    small = engine(proposer=RandomTrees(drain(engine(), [item]), random.Random(1)))

    def failing(transfers: Transfers) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(small._backend, "transfer", failing)
    with pytest.raises(RuntimeError, match="the device is gone"):
        drain(small, [item])


def test_positions_and_parents_of_a_batch() -> None:
    seen = []
    item = request("a", prompt(5), SamplingParams(temperature=0, max_tokens=9))
    truth = drain(engine(), [item])
    right = truth["a", 0].token_ids

    class Once:
        def propose(self, sequences: list[Sequence]) -> None:
            for seq in sequences:
                seq.drafts, seq.draft_parents = [right[1], 77, right[2], 78], [-1, -1, 0, 2]

    small = engine(proposer=Once())
    run = small._backend.run
    small._backend.run = lambda batch: seen.append(batch) or run(batch)  # type: ignore[method-assign, func-returns-value]
    small.add(item)
    small.step()
    small.step()
    batch = seen[-1]
    assert batch.positions.tolist() == [5, 6, 6, 7, 8]
    assert batch.parents is not None and batch.parents.tolist() == [-1, 0, 0, 1, 3]
    assert np.diff(batch.slot_mapping[:3]).tolist() == [1, 1]
