"""OpenVINO GenAI: continuous batching on the CPU plugin. Reads GGUF of the llama, qwen2 and qwen3 families."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai

Generate = Callable[[list[list[int]], int], None]

CACHE_GB, STEP_TOKENS = 2, 512


def load(settings: dict[str, Any]) -> tuple[str, Generate, int | None]:
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size, scheduler.max_num_batched_tokens = CACHE_GB, STEP_TOKENS
    scheduler.max_num_seqs = max(64, settings["max_seqs"])
    scheduler.enable_prefix_caching = False
    pipeline = genai.LLMPipeline(
        settings["model"], "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=settings["threads"]
    )

    def generate(prompts: list[list[int]], tokens: int) -> None:
        ids = np.array(prompts, np.int64)
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = tokens, True, False
        pipeline.generate(genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids))), config)

    return genai.__version__, generate, None
