"""transformers, eager, on the same shapes: what a user has without an engine. Left out where it is not installed."""

from __future__ import annotations

import gc
import time
from importlib.util import find_spec
from typing import Any

import torch

from bench.device.models import SHAPES, TINY, Shape
from bench.device.report import DEVICE, Report
from octavo.backends.cuda.launch import INTERPRETED

BATCHES = (1,) if INTERPRETED else (1, 16)
CONTEXT, TOKENS = (8, 2) if INTERPRETED else (1024, 32)


def run(report: Report) -> None:
    if find_spec("transformers") is None:
        report.add("transformers", "not installed", "left out")
        return
    for name in ("1.5B Q4_K", "8B bf16"):
        if report.left < 30:
            report.add(f"{name}: no time left", "left out")
            continue
        measure(report, name, (TINY if INTERPRETED else SHAPES)[name])


def measure(report: Report, name: str, shape: Shape) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=shape.hidden, intermediate_size=shape.ffn, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        vocab_size=shape.vocab, tie_word_embeddings=True, max_position_embeddings=8192,
    )  # fmt: skip
    with torch.device(DEVICE):
        torch.set_default_dtype(torch.bfloat16)
        model: Any = LlamaForCausalLM(config).eval()
        torch.set_default_dtype(torch.float32)
    for batch in BATCHES:
        ids = torch.randint(0, shape.vocab, (batch, CONTEXT), device=DEVICE)
        with torch.inference_mode():
            cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
            times = []
            token = ids[:, -1:]
            for _ in range(TOKENS):
                begin = time.perf_counter()
                out = model(token, past_key_values=cache, use_cache=True)
                token, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
                token.tolist()
                times.append(time.perf_counter() - begin)
        seconds = sorted(times)[len(times) // 2]
        report.add(f"transformers in bf16, shape of {name}, batch {batch}", batch / seconds, "tokens/s")
    del model
    gc.collect()
    if not INTERPRETED:
        torch.cuda.empty_cache()
