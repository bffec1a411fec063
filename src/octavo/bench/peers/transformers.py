"""Hugging Face transformers in eager PyTorch, bfloat16. It reads GGUF by converting the weights to bfloat16."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

# Imported by name: they exist only in the peer's environment.
torch, transformers = import_module("torch"), import_module("transformers")

Generate = Callable[[list[list[int]], int], None]


def load(settings: dict[str, Any]) -> tuple[str, Generate, int | None]:
    torch.set_num_threads(settings["threads"])
    folder, name = os.path.split(settings["model"])
    source = (folder or ".", {"gguf_file": name}) if name.endswith(".gguf") else (settings["model"], {})
    model = transformers.AutoModelForCausalLM.from_pretrained(source[0], dtype=torch.bfloat16, **source[1]).eval()

    def generate(prompts: list[list[int]], tokens: int) -> None:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,  # no end-of-sequence token before that
                do_sample=False,
                pad_token_id=0,
            )

    return transformers.__version__, generate, model.config.vocab_size
