"""llama.cpp through the C API of llama-cpp-python: all sequences in one context, greedy by the largest logit.

settings may have "repack": whether weights are repacked for the processor while loading (llama.cpp's own default).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import llama_cpp as lib
import numpy as np

Generate = Callable[[list[list[int]], int], None]

BATCH = 512  # tokens per call, as in the other engines


def load(settings: dict[str, Any]) -> tuple[str, Generate, int | None]:
    context, vocab_size = open_context(settings)
    batch = lib.llama_batch_init(BATCH, 0, 1)

    def step(rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """Maps rows of (token, position, sequence, whether logits are wanted) to the next tokens of the wanted rows."""
        found: list[int] = []
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            batch.n_tokens = len(part)
            for i, (token, position, sequence, wanted) in enumerate(part):
                batch.token[i], batch.pos[i] = token, position
                batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, sequence, wanted
            if status := lib.llama_decode(context, batch):
                raise RuntimeError(f"llama_decode returned {status}")
            found += [largest(context, i, vocab_size) for i, row in enumerate(part) if row[3]]
        return found

    def generate(prompts: list[list[int]], tokens: int) -> None:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        last = [len(ids) - 1 for ids in prompts]
        new = step([(t, p, s, p == last[s]) for s, ids in enumerate(prompts) for p, t in enumerate(ids)])
        for n in range(1, tokens):
            new = step([(token, last[s] + n, s, True) for s, token in enumerate(new)])

    return lib.__version__, generate, vocab_size


def open_context(settings: dict[str, Any]) -> tuple[Any, int]:
    lib.llama_backend_init()
    lib.llama_log_set(QUIET, ctypes.c_void_p(0))
    wanted = lib.llama_model_default_params()
    repack = settings.get("repack", True)
    if hasattr(wanted, "use_extra_bufts"):
        wanted.use_extra_bufts = repack
    elif not repack:
        raise ImportError("this llama-cpp-python cannot turn repacking off")
    model = lib.llama_model_load_from_file(settings["model"].encode(), wanted)
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {settings['model']}")
    each = -(-settings["max_len"] // 256) * 256
    params = lib.llama_context_default_params()
    params.n_seq_max, params.n_ctx = settings["max_seqs"], each * settings["max_seqs"]
    params.n_batch = params.n_ubatch = BATCH
    params.n_threads = params.n_threads_batch = settings["threads"]
    if hasattr(params, "flash_attn_type"):
        params.flash_attn_type = 1
    context = lib.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError("llama.cpp cannot make a context of this size")
    return context, lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))


def largest(context: Any, row: int, vocab_size: int) -> int:
    address = ctypes.cast(lib.llama_get_logits_ith(context, row), ctypes.c_void_p).value or 0
    return int(np.ctypeslib.as_array((ctypes.c_float * vocab_size).from_address(address)).argmax())


QUIET = lib.llama_log_callback(lambda *_: None)
