"""What the measurements in this folder share: modes, timing in CUDA graphs, a table on screen and in a file.

Modes, chosen by the environment:

| | |
|---|---|
| a GPU is there | measures |
| `COMPILE=i/n` | compiles every n-th Triton launch, from the i-th on, runs nothing; tensors are "meta" |
| `TRITON_INTERPRET=1` | runs tiny sizes on the CPU, to test the scripts themselves |
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # cuBLAS without a workspace has no split-K
os.environ.setdefault("CUBLASLT_WORKSPACE_SIZE", "1")

import torch
import triton

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
COMPILE = os.environ.get("COMPILE")
GPU = torch.cuda.is_available() and not COMPILE
DEVICE = "cuda" if GPU else "meta" if COMPILE else "cpu"
L2_BYTES = 50 << 20
RESULTS: dict[str, Any] = {}
_launches = 0


def compile_only() -> None:
    """Makes Triton's launches compile for an H100 where there is no driver."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class Driver:
        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, _device: int) -> int:
            return 0

        def get_active_torch_device(self) -> torch.device:
            return torch.device("meta")

    driver.set_active(Driver())


if COMPILE and not torch.cuda.is_available():
    compile_only()


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Launches a Triton kernel, or compiles it in the compile mode and prints its resources."""
    if not COMPILE:
        kernel[grid](*args, **options)
        return
    global _launches
    _launches += 1
    part, parts = map(int, COMPILE.split("/"))
    if _launches % parts == part:
        begin = time.time()
        made = kernel.warmup(*args, grid=grid, **options)
        if parts == 1:
            print(f"    {kernel.fn.__name__:14s} {resources(made)} {time.time() - begin:.1f} s", flush=True)


def resources(made: Any) -> str:
    """Registers, spills and matrix instructions of a compiled kernel."""
    import re
    import subprocess
    import tempfile

    tools = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [tools + "cuobjdump", "--dump-resource-usage", file.name], capture_output=True, text=True
        )
        if os.environ.get("SASS"):
            sass = subprocess.run([tools + "nvdisasm", "-c", file.name], capture_output=True, text=True).stdout
            with open(f"{os.environ['SASS']}/{made.name}.{_launches}.sass", "w") as out:
                out.write(sass)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout)
    kinds = sorted(set(re.findall(r"(wgmma\.mma_async\S*?m\d+n\d+k\d+|mma\.sync\S*?m\d+n\d+k\d+)", made.asm["ptx"])))
    short = [kind.replace(".sync.aligned", "").replace(".mma_async", "").replace("mma.m", "mma m") for kind in kinds]
    return f"regs {found and found[1]} stack {found and found[2]} shared {made.metadata.shared} {short}"


def say(name: str, value: Any) -> None:
    RESULTS[name] = value
    print(f"{name:62s} {value}", flush=True)


def microseconds(call: Callable[[int], None], sets: int = 1, calls: int = 20, replays: int = 7) -> float:
    """Returns the median time of `call(i)` in a graph of `calls` calls that rotate over `sets` of inputs."""
    for index in range(sets):
        call(index)
    if not GPU:
        return float("nan")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(calls):
            call(index % sets)
    times = []
    for _ in range(replays):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times)


def rank(title: str, found: list[tuple[float, str]], size: float, flop: float) -> None:
    """Prints (microseconds, name) from the fastest on, with the rates that `size` bytes and `flop` operations make."""
    for us, name in sorted(found):
        say(f"{title} {name}", f"{us:7.1f} us {size / us / 1e3:5.0f} GB/s {flop / us / 1e6:4.0f} TFLOP/s")


def error(out: torch.Tensor, reference: torch.Tensor) -> float:
    """Returns |out - reference| / |reference|; both are compared in float64."""
    difference = out.double() - reference.double()
    return float("nan") if COMPILE else float(difference.norm() / reference.double().norm())


def same(a: torch.Tensor, b: torch.Tensor) -> bool | str:
    """Returns whether two tensors have the same bits, or how far apart they are."""
    if COMPILE:
        return "not run"
    return bool(torch.equal(a, b)) or f"differ by {(a.double() - b.double()).abs().max().item():.1e}"


def run(sections: dict[str, Callable[[], None]], names: list[str]) -> None:
    """Runs the named sections, or all; a failure of one does not stop the next. Writes the results to $OUT."""
    begin = time.time()
    device = torch.cuda.get_device_name() if GPU else DEVICE
    say("versions", f"torch {torch.__version__}, triton {triton.__version__}, {device}")
    for name in names or list(sections):
        try:
            sections[name]()
        except Exception as problem:
            say(f"-- {name} FAILED", f"{type(problem).__name__}: {str(problem)[:400]}")
            if not GPU:
                raise
        say(f"-- {name} ended at s", round(time.time() - begin, 1))
    if os.environ.get("OUT"):
        import sys

        stem = os.path.splitext(os.path.basename(sys.argv[0]))[0]
        with open(os.path.join(os.environ["OUT"], f"{stem}.json"), "w") as file:
            json.dump(RESULTS, file, indent=1, default=str)
