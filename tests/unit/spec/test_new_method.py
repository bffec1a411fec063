"""What a contributor adds for a drafting method (CONTRIBUTING.md): a file, here a class, and its two lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo.assembly.engine import assemble, engine_config
from octavo.assembly.speculation import MAKERS
from octavo.sampling_params import SamplingParams
from octavo.scheduler.stats import Stats
from octavo.spec.proposer import Guess
from octavo.spec.settings import METHODS
from octavo.types import Sequence
from tests.tiny import write_tiny_gguf
from tests.unit.control import Answers, drain, request


class Stutter:
    """Drafts the newest token again and again."""

    name = "stutter"
    runs_model = False

    def draft(self, sequences: list[Sequence], limits: list[int]) -> list[Guess]:
        return [Guess([seq.token_ids[-1]] * limit, 1) for seq, limit in zip(sequences, limits, strict=True)]


def answers(path: Path, config: dict[str, str] | None) -> tuple[Answers, Stats]:
    parts = assemble(path, engine_config(backend="reference", speculative_config=config))
    item = request("a", [5, 6, 7], SamplingParams(temperature=0, max_tokens=60, ignore_eos=True))
    return drain(parts.engine, [item]), parts.engine.stats


def test_a_method_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "stutter", 4)  # the lines
    monkeypatch.setitem(MAKERS, "stutter", lambda speculation: Stutter())
    path = write_tiny_gguf(tmp_path / "m.gguf")
    plain, _ = answers(path, None)
    drafted, stats = answers(path, {"method": "stutter"})
    assert drafted == plain
    assert 0 < stats.accepted_tokens < stats.draft_tokens
