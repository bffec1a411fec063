"""llama.cpp on the shared workload, through llama-cpp-python's low-level interface.

Run it with the Python of an environment that has llama-cpp-python (Octavo need not be there): see docs/performance.md.
The settings are its best for this workload: flash attention, 512 tokens a call, a sequence slot for each prompt.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from octavo.bench.workload import Workload, measure  # noqa: E402

N_BATCH = 512  # tokens of one call, as in Octavo's default

Row = tuple[int, int, int, bool]  # token, position, sequence, whether its logits are wanted


class LlamaCpp:
    """A model and a context for `sequences` sequences of up to `length` tokens."""

    def __init__(self, path: str, threads: int, sequences: int, length: int):
        import llama_cpp

        self.api: Any = llama_cpp
        self.quiet = llama_cpp.llama_log_callback(lambda *arguments: None)  # kept alive: C calls it
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = sequences * length, sequences
        params.n_batch = params.n_ubatch = N_BATCH
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 1
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(N_BATCH, 0, 1)

    def generate(self, prompts: list[list[int]], tokens: int) -> None:
        """Greedy, all sequences together."""
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        last = [len(prompt) - 1 for prompt in prompts]
        rows = [(t, p, s, p == last[s]) for s, prompt in enumerate(prompts) for p, t in enumerate(prompt)]
        chosen = self.run(rows)
        for step in range(1, tokens):
            chosen = self.run([(token, last[s] + step, s, True) for s, token in enumerate(chosen)])

    def run(self, rows: list[Row]) -> list[int]:
        """The most likely token after each row that wants logits."""
        return [token for i in range(0, len(rows), N_BATCH) for token in self.run_batch(rows[i : i + N_BATCH])]

    def run_batch(self, rows: list[Row]) -> list[int]:
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        if status := self.api.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode failed with status {status}")
        return [self.argmax(i) for i, row in enumerate(rows) if row[3]]

    def argmax(self, row: int) -> int:
        import numpy as np

        logits = self.api.llama_get_logits_ith(self.context, row)
        return int(np.ctypeslib.as_array(logits, shape=(self.vocab_size,)).argmax())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--batch", default="1,4,16")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--gen-tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    batches = tuple(int(part) for part in arguments.batch.split(","))
    workload = Workload(batches, arguments.prompt_tokens, arguments.gen_tokens, arguments.repeat)
    longest = max(length for _, length in workload.rows()) + workload.gen_tokens + 1
    engine = LlamaCpp(arguments.model, arguments.threads, max(batches), longest)
    startup = round(time.perf_counter() - STARTED, 2)
    version = engine.api.__version__
    print(json.dumps({"engine": "llama.cpp", "version": version, "startup_s": startup}), flush=True)
    for row in measure(workload, engine.generate):
        print(json.dumps({"engine": "llama.cpp", **row}), flush=True)


if __name__ == "__main__":
    main()
