"""vLLM's CPU build, from a folder of safetensors.

settings may have "dtype": bfloat16 or float32. Which is faster depends on the processor.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GB
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # run the engine in this process

from vllm import LLM, SamplingParams, __version__  # after the settings: vLLM reads the environment when imported

Generate = Callable[[list[list[int]], int], None]


def load(settings: dict[str, Any]) -> tuple[str, Generate, int | None]:
    os.environ["OMP_NUM_THREADS"] = str(settings["threads"])
    llm = LLM(
        settings["model"],
        dtype=settings["dtype"],
        max_model_len=settings["max_len"],
        max_num_seqs=settings["max_seqs"],
        enable_prefix_caching=False,
    )

    def generate(prompts: list[list[int]], tokens: int) -> None:
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)

    return __version__, generate, llm.get_tokenizer().vocab_size
