from __future__ import annotations

from octavo.sampling_params import SamplingParams
from tests.unit.scheduler.test_continuous import Rig


def test_nobody_joins_a_batch_until_its_last_sequence_has_ended() -> None:
    rig = Rig(scheduler="static", max_num_seqs=2)
    for index, tokens in enumerate((1, 3, 1)):
        rig.add(str(index), 2, SamplingParams(temperature=0, max_tokens=tokens), arrival=float(index))
    assert [rig.step() for _ in range(4)] == [[("0", 2), ("1", 2)], [("1", 1)], [("1", 1)], [("2", 2)]]


def test_a_batch_is_formed_whole_even_if_its_prompts_take_several_steps() -> None:
    rig = Rig(scheduler="static", max_num_batched_tokens=4)
    rig.add("0", 6)
    rig.add("1", 3, arrival=1.0)
    assert rig.step() == [("0", 4)]
    assert rig.step() == [("0", 2), ("1", 2)]
    assert rig.step() == [("0", 1), ("1", 1)]
