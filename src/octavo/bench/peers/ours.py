"""Octavo itself, with room for the workload and no prefix cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from octavo import __version__
from octavo.assembly.engine import assemble, engine_config
from octavo.kv.planner import blocks_for
from octavo.offline.driver import Driver
from octavo.sampling_params import SamplingParams
from octavo.types import Request

Generate = Callable[[list[list[int]], int], None]


def load(settings: dict[str, Any]) -> tuple[str, Generate, int | None]:
    length, seqs = settings["max_len"], settings["max_seqs"]
    made = {
        "num_kv_blocks": seqs * blocks_for(length, 16),
        "threads": settings["threads"],
        **settings.get("engine", {}),
    }
    parts = assemble(
        settings["model"],
        engine_config(max_model_len=length, max_num_seqs=seqs, enable_prefix_caching=False, **made),
    )
    driver = Driver(parts.engine, parts.tokenizer)

    def generate(prompts: list[list[int]], tokens: int) -> None:
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        driver.generate([(Request(str(i), ids, params), None) for i, ids in enumerate(prompts)])

    return __version__, generate, parts.model.vocab_size
