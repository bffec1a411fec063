"""Texts to measure and train on: the shipped prompts in the chat template, and the model's answers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.resources import files

import numpy as np

from octavo.assembly.engine import Assembly
from octavo.errors import ConfigError
from octavo.sampling_params import SamplingParams
from octavo.types import F32, Request

RANDOM_TOKENS = 200  # length of a prompt in the workload "random"
RANDOM_OUTPUT = 120
SHORTEST = 32  # tokens: shorter sequences measure nothing
LENGTH = 200  # tokens to generate per prompt for training


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt in token ids. tokens: most tokens to generate. ends: an end-of-sequence token ends the answer."""

    prompt: list[int]
    tokens: int
    ends: bool = True


def workloads(parts: Assembly) -> dict[str, list[Task]]:
    """The shipped workloads by name, in the model's chat template. "random" has tokens without any pattern."""
    made = {
        name: [Task(encoded(parts, entry["text"]), int(entry["tokens"])) for entry in entries]
        for name, entries in json.loads(shipped("speculation.json")).items()
    }
    rng, size = random.Random(0), parts.model.vocab_size
    low = min(1000, size // 2)
    prompts = [[rng.randrange(low, min(20000, size)) for _ in range(RANDOM_TOKENS)] for _ in range(2)]
    return made | {"random": [Task(prompt, RANDOM_OUTPUT, ends=False) for prompt in prompts]}


def shipped(name: str) -> str:
    return files("octavo.bench").joinpath("workloads", name).read_text(encoding="utf-8")


def encoded(parts: Assembly, text: str) -> list[int]:
    """Ids of a user message in the model's chat template; of plain text if the model has none."""
    tokenizer = parts.tokenizer
    if tokenizer.chat_template is None:
        return tokenizer.encode(text + "\n\n")
    from octavo import chat

    _, ids = chat.prompt(tokenizer, [{"role": "user", "content": text}])
    return ids


def fitted(tasks: list[Task], length: int) -> list[Task]:
    """Fits tasks into sequences of `length` tokens: cuts long prompts at the front.

    Raises ConfigError if `length` is too short to measure anything.
    """
    if length < SHORTEST:
        raise ConfigError(f"max_model_len must be at least {SHORTEST} here; got {length}")
    return [
        replace(task, prompt=task.prompt[-max(1, length - task.tokens) :], tokens=min(task.tokens, length - 1))
        for task in tasks
    ]


def write(parts: Assembly, tasks: list[Task], temperature: float, seed: int = 0) -> list[list[int]]:
    """Returns the model's tokens for each task. It ignores end-of-sequence tokens."""
    params = [
        SamplingParams(temperature=temperature, max_tokens=task.tokens, ignore_eos=True, seed=seed + i)
        for i, task in enumerate(tasks)
    ]
    requests = [Request(f"write-{i}", task.prompt, params[i], seed=seed + i) for i, task in enumerate(tasks)]
    outputs: list[list[int]] = [[] for _ in tasks]
    index = {request.request_id: i for i, request in enumerate(requests)}
    for request in requests:
        parts.engine.add(request)
    while parts.engine.has_work:
        for delta in parts.engine.step():
            outputs[index[delta.request_id]] += delta.token_ids
    return outputs


def repeated(tasks: list[Task], count: int) -> Iterator[Task]:
    """Yields `count` tasks by cycling through the given ones."""
    return (tasks[i % len(tasks)] for i in range(count))


def hidden_states(parts: Assembly, texts: list[list[int]]) -> list[F32]:
    """Returns the last layer's hidden state after every token: [len(text), D] for each text."""
    params = SamplingParams(max_tokens=0)
    requests = [Request(f"read-{i}", text, params, pooling="mean") for i, text in enumerate(texts)]
    index = {request.request_id: i for i, request in enumerate(requests)}
    found: list[list[F32]] = [[] for _ in texts]
    for request in requests:
        parts.engine.add(request)
    while parts.engine.has_work:
        for delta in parts.engine.step():
            if delta.hidden is not None:
                found[index[delta.request_id]].append(delta.hidden)
    return [np.concatenate(pieces) for pieces in found]
