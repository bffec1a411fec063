"""Tokens sampled with speculation on follow the filtered distribution: end to end, by a chi-squared test."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from octavo import LLM, SamplingParams
from octavo.sampling import params, rules
from octavo.types import Request, Sequence
from tests.batches import Row, make_batch
from tests.tiny import Tiny, write_tiny_gguf
from tests.unit.spec.test_rules import chi_squared_tail

DRAWS = 4000
PROMPT = list(range(40, 60))


def distribution(llm: LLM, tokens: list[int], sampling: SamplingParams) -> np.ndarray:
    """The distribution that the next token is drawn from: [V]."""
    seq = Sequence(Request("p", PROMPT, sampling), 0, tokens, len(PROMPT))
    arrays = params.build([(seq, len(tokens))], llm.parts.model.vocab_size)
    batch = make_batch([Row(tokens)], want_logits=True)
    logits = llm.parts.backend.run(batch).logits
    assert logits is not None
    return rules.filter_probs(rules.apply_edits(logits, arrays), arrays)[0].astype(np.float64)


def test_drafted_positions_are_drawn_from_the_model_s_distribution(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf", Tiny(layers=4, type="Q4_0"))
    sampling = SamplingParams(
        temperature=5.0, top_k=12, top_p=0.98, presence_penalty=0.5, max_tokens=4, ignore_eos=True
    )
    config = {"method": "tree", "methods": ["early_exit"], "layers": 3, "num_speculative_tokens": 2}
    with LLM(model, max_model_len=64, seed=11, speculative_config=config) as llm:
        outputs = llm.generate([PROMPT] * DRAWS, sampling, use_tqdm=False)
        stats = llm.parts.engine.stats
        assert stats.draft_tokens > DRAWS and 0.05 < stats.acceptance < 0.99
        answers = [tuple(output.outputs[0].token_ids) for output in outputs]
        starts = [start for start, _ in Counter(answer[:1] for answer in answers).most_common(3)]
        starts += [start for start, _ in Counter(answer[:2] for answer in answers).most_common(3)]
        for start in starts:
            followers = [answer[len(start)] for answer in answers if answer[: len(start)] == start]
            p = distribution(llm, PROMPT + list(start), sampling)
            assert len(followers) > 60
            counts = np.bincount(followers, minlength=len(p))
            assert not counts[p == 0].any()
            large = p * len(followers) > 5  # the rest is one class: the statistic needs five of each
            rest = np.array([counts[~large].sum()]), np.array([p[~large].sum()])
            many, shares = np.append(counts[large], rest[0]), np.append(p[large], rest[1])
            assert chi_squared_tail(many[shares > 0], shares[shares > 0] / shares.sum()) > 1e-4
