"""Key-value retrieval with eviction: how often a model still finds a value when a part of the prompt is gone.

    python -m bench.retrieval [--model qwen2.5-coder-0.5b] [--pairs 60] [--trials 40] [--questions 4]

A prompt is a Python dictionary of random names and numbers, then a line that prints one of them (`single`), or
several (`several`). An answer counts if it begins with the right number, each of the several by itself. Each line is
one policy: its share of right answers, that share over the one without eviction, and the share by the place of the
pair in the dictionary, in fifths from the first to the last.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass, field

from octavo import LLM, SamplingParams

WORDS = (
    "apple river stone cloud tiger paper window garden silver copper lemon ocean bridge candle forest mirror pocket "
    "rocket saddle ticket violin walnut yellow zebra anchor basket carpet dragon engine feather guitar hammer island "
    "jacket kettle ladder magnet needle orange pencil quiver ribbon shovel temple umbrella valley wallet almond button "
    "castle dolphin eagle falcon goblet harbor insect jungle kernel lantern meadow napkin oyster parrot quartz raisin "
    "salmon turtle urchin velvet whistle"
)
NAMES = WORDS.split()
POLICIES = ("none", "snapkv(0.5)", "snapkv(0.25)", "snapkv(0.1)", "sink_recent(16, 512)")


@dataclass
class Tally:
    right: int = 0
    asked: int = 0
    seconds: float = 0.0
    by_place: list[list[int]] = field(default_factory=lambda: [[0, 0] for _ in range(5)])

    def add(self, place: float, right: bool) -> None:
        self.right += right
        self.asked += 1
        fifth = self.by_place[min(4, int(place * 5))]
        fifth[0] += right
        fifth[1] += 1

    @property
    def share(self) -> float:
        return self.right / max(1, self.asked)


def prompt(source: random.Random, pairs: int, questions: int) -> tuple[str, list[tuple[float, str]]]:
    """(the text, place in the dictionary and value of each question)."""
    names = source.sample([f"{a}_{b}" for a in NAMES for b in NAMES if a != b], pairs)
    values = [str(source.randrange(1_000, 10_000)) for _ in names]
    asked = [int((i + source.random()) * pairs / questions) for i in range(questions)]
    source.shuffle(asked)
    entries = "".join(f'    "{name}": {value},\n' for name, value in zip(names, values, strict=True))
    calls = "".join(f'>>> data["{names[i]}"]\n' for i in asked[-1:])
    if questions > 1:
        calls = ">>> " + ", ".join(f'data["{names[i]}"]' for i in asked) + "\n("
    return f"data = {{\n{entries}}}\n{calls}", [(i / pairs, values[i]) for i in asked]


def ask(llm: LLM, text: str, wanted: list[tuple[float, str]], policy: str, tally: Tally) -> None:
    params = SamplingParams(temperature=0, max_tokens=8 * len(wanted), kv_eviction=policy)
    start = time.perf_counter()
    [output] = llm.generate([text], params, use_tqdm=False)
    tally.seconds += time.perf_counter() - start
    answers = output.outputs[0].text.strip().split(",")
    for number, (place, value) in enumerate(wanted):
        tally.add(place, number < len(answers) and answers[number].strip()[: len(value)] == value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--policies", nargs="*", default=POLICIES)
    given = parser.parse_args()
    with LLM(given.model, max_model_len=4_096, max_num_seqs=2) as llm:
        for kind, questions in (("single", 1), ("several", given.questions)):
            tallies = {policy: Tally() for policy in given.policies}
            tokens = 0
            for trial in range(given.trials if questions == 1 else given.trials // 2):
                text, wanted = prompt(random.Random(trial), given.pairs, questions)
                tokens += len(llm.get_tokenizer().encode(text))
                for policy, tally in tallies.items():
                    ask(llm, text, wanted, policy, tally)
            whole = tallies[given.policies[0]].share
            print(f"{kind}: {tokens // (trial + 1)} tokens a prompt, {given.trials} prompts", flush=True)
            for policy, tally in tallies.items():
                places = " ".join(f"{100 * right / max(1, asked):4.0f}" for right, asked in tally.by_place)
                ratio = tally.share / whole if whole else 0.0
                print(f"  {policy:22} {100 * tally.share:5.1f} %  {100 * ratio:5.1f} %  by place {places}", flush=True)


if __name__ == "__main__":
    main()
