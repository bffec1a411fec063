"""Compiles every kernel that a model would launch, without a GPU, and prints what each takes.

    python -m tests.cuda.compiled 90 [model ...]

One JSON object a line: kernel, its constants, registers, bytes of stack (spills) and of shared memory, matrix
instructions. Its own process, because TRITON_INTERPRET must not be set when Triton is imported.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from octavo.backends.cuda.backend import CudaBackend
from octavo.backends.cuda.launch import Launch
from octavo.backends.cuda.tail import Tail
from octavo.config import CacheConfig
from octavo.ir import Attention, Model, Ops, Rope, Tensor, Weight
from octavo.weights.formats import FORMATS, tensor_bytes

TOKENS = (1, 64, 1024)  # one for each kind of tile


class Target:
    """Triton's view of a GPU that is not here."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")


def one_layer(
    type: str, hidden: int, heads: int, kv_heads: int, head_dim: int, ffn: int, bias: bool = False,
    norms: bool = False, window: int = 0, cap: float = 0.0,
) -> Model:  # fmt: skip
    """A model of one layer. Its weights are never read."""
    spec = Attention(heads, kv_heads, head_dim, head_dim**-0.5, window, cap)
    weights: dict[str, Weight] = {}

    def weight(name: str, *shape: int) -> Weight:
        kind = type if len(shape) == 2 else "F32"
        data = np.zeros(tensor_bytes(FORMATS[kind], shape), np.uint8)  # never touched, so no memory is taken
        return weights.setdefault(name, Weight(name, shape, kind, data))

    rope = Rope(np.ones(head_dim // 2, np.float32))
    sizes = {"q": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim}

    def forward(ops: Ops) -> Tensor:
        x = ops.embed(weight("embed", 512, hidden))
        h = ops.rms_norm(x, weight("n1", hidden), 1e-6)
        q, k, v = (
            ops.linear(h, weight(name, size, hidden), weight(f"{name}b", size) if bias else None)
            for name, size in sizes.items()
        )
        if norms:
            q, k = (ops.rms_norm(y, weight("hn", head_dim), 1e-6) for y in (q, k))
        h = ops.attention(ops.rope(q, rope, heads), ops.rope(k, rope, kv_heads), v, 0, spec)
        x = ops.add(x, ops.linear(h, weight("o", hidden, heads * head_dim)))
        h = ops.rms_norm(x, weight("n2", hidden), 1e-6)
        gate, up = ops.linear(h, weight("gate", ffn, hidden)), ops.linear(h, weight("up", ffn, hidden))
        x = ops.add(x, ops.linear(ops.gated(gate, up, "silu"), weight("down", hidden, ffn)))
        return ops.logits(ops.rms_norm(ops.logit_rows(x), weight("n3", hidden), 1e-6), weight("embed", 512, hidden))

    return Model("m", 512, hidden, 1, 4096, (spec,), weights, forward)


TAIL = "tail, 152k tokens"  # the kernels that choose, for such a vocabulary
# name -> (model, type of the KV cache)
MODELS = {
    "1.5B Q4_K": (one_layer("Q4_K", 1536, 12, 2, 128, 8960, bias=True), "bf16"),
    "8B BF16": (one_layer("BF16", 4096, 32, 8, 128, 14336), "bf16"),
    "8B Q6_K, int8 KV": (one_layer("Q6_K", 4096, 32, 8, 128, 14336), "int8"),
    "gemma 4B Q8_0": (one_layer("Q8_0", 2560, 8, 4, 256, 10240, norms=True, window=1024, cap=50.0), "bf16"),
    "1.5B F32, f32 KV": (one_layer("F32", 1536, 12, 2, 128, 8960), "f32"),
    # Widths that are multiples of nothing, as small as a test's.
    "odd BF16": (one_layer("BF16", 56, 3, 1, 24, 88, bias=True, norms=True), "bf16"),
    "odd F32, int8 KV": (one_layer("F32", 40, 6, 2, 8, 52), "int8"),
    "odd Q8_0, f32 KV": (one_layer("Q8_0", 96, 4, 4, 40, 160), "f32"),
}


def tail_launches(rows: int) -> list[Launch]:
    def made(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    vocab = 151936
    tail, out, logits = Tail(vocab, rows, torch.device("meta")), made(rows, 4), made(rows, vocab, dtype=torch.float32)
    greedy, chosen = tail.greedy(out, logits, made(rows)), tail.choose(out, logits, made(99), rows)
    return [*greedy, *chosen, *tail.logprobs(out, made(rows, 2, 5), logits)]


def model_launches(model: Model, kv: str, capability: int) -> Callable[[int], list[Launch]]:
    limits = {"max_tokens": 1024, "max_context": 4096, "capability": capability}
    backend = CudaBackend(model, CacheConfig(64, 16, kv), device="meta", **limits)
    return lambda tokens: backend.launches(tokens, min(tokens, 64))


def compiled(name: str, capability: int) -> Iterator[dict[str, Any]]:
    launches = tail_launches if name == TAIL else model_launches(*MODELS[name], capability)
    seen: set[str] = set()
    for tokens in TOKENS:
        for launch in launches(tokens):
            constants = {k: list(v) if isinstance(v, tuple) else v for k, v in launch.constants.items()}
            facts = {"kernel": launch.name, "tokens": tokens, **constants}
            key = repr((launch.name, constants))
            if key not in seen:
                seen.add(key)
                yield facts | resources(launch.compile())


def resources(made: Any) -> dict[str, Any]:
    tools = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [tools + "cuobjdump", "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    ptx = made.asm["ptx"]
    return {
        "registers": int(found[1]),
        "stack": int(found[2]),
        "shared": made.metadata.shared,
        "mma": sorted(set(re.findall(r"wgmma|mma\.sync", ptx))),
        "mma_columns": sorted(set(re.findall(r"mma\S*\.m\d+n\d+k(\d+)\S*", ptx))),
        "layouts": layouts(made.asm["ttgir"]),
    }


def layouts(ir: str) -> list[str]:
    """What the order of a row's sums depends on: of each matmul and each sum along rows, the width and how it is spread
    over threads, but for the number of warps that have rows of their own."""
    named = dict(re.findall(r"^(#\w+) = (#ttg\.\w+<\{.*\}>)", ir, re.M))

    def spread(name: str) -> str:
        return re.sub(r"warpsPerCTA = \[\d+, ", "warpsPerCTA = [rows, ", named[name])

    dots = re.findall(r"(?:warp_group_dot|tt\.dot) .*<\d+x(\d+)x\w+.*? \* .*-> tensor<\d+x(\d+)xf32, (#\w+)>", ir)
    sums = re.findall(r'"tt\.reduce"\([^)]*\) <\{axis = 1 : i32\}>.*?: \(tensor<\d+x(\d+)xf32, (#\w+)>\)', ir, re.S)
    found = [f"dot {k} x {n} {spread(name)}" for k, n, name in dots]
    return sorted({*found, *(f"sum of {width} {spread(name)}" for width, name in sums)})


if __name__ == "__main__":
    driver.set_active(Target(int(sys.argv[1])))
    for name in sys.argv[2:] or (*MODELS, TAIL):
        for facts in compiled(name, int(sys.argv[1])):
            print(json.dumps({"model": name, **facts}), flush=True)
