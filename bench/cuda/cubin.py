"""CUDA C++ kernels without an extension module: nvcc makes a cubin, the driver loads it, ctypes launches it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from typing import Any

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.environ.get("CUBIN_CACHE", os.path.join(os.path.expanduser("~"), ".cache", "octavo-bench-cuda"))
CLUSTER_DIMENSION = 4  # CUlaunchAttributeID
PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CUlaunchAttributeID: programmatic dependent launch
MAX_DYNAMIC_SHARED_SIZE = 8  # CUfunction_attribute


def build(source: str, variants: list[str]) -> str:
    """Compiles `source` for sm_90a with its variants and returns the cubin's path; the name holds the inputs' hash."""
    texts = []
    for name in ("q4k.cuh", source):
        with open(os.path.join(HERE, name)) as file:
            texts.append(file.read())
    text = "\n".join([*texts, *variants, ""]).replace('#include "q4k.cuh"', "")
    cubin = os.path.join(CACHE, f"{source}.{hashlib.sha256(text.encode()).hexdigest()[:16]}.cubin")
    if not os.path.exists(cubin):
        os.makedirs(CACHE, exist_ok=True)
        command = ["nvcc", "-cubin", "-gencode=arch=compute_90a,code=sm_90a", "-std=c++17", "-Xptxas", "-v", "-x", "cu"]
        done = subprocess.run([*command, "-", "-o", cubin], input=text, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        with open(cubin + ".log", "w") as log:
            log.write(done.stderr)
    return cubin


class Attribute(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_uint * 16))


class Config(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint) for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared")),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(Attribute)),
        ("count", ctypes.c_uint),
    )


def check(status: int) -> None:
    if status:
        raise RuntimeError(f"CUDA driver error {status}")


class Module:
    """A loaded cubin; `launch` puts one of its kernels on torch's current stream."""

    def __init__(self, cubin: str) -> None:
        torch.zeros(1, device="cuda")  # makes the context
        self.driver = ctypes.CDLL("libcuda.so.1")
        self.module = ctypes.c_void_p()
        self.functions: dict[tuple[str, int], ctypes.c_void_p] = {}
        with open(cubin, "rb") as file:
            check(self.driver.cuModuleLoadData(ctypes.byref(self.module), file.read()))

    def function(self, name: str, shared: int) -> ctypes.c_void_p:
        if (name, shared) not in self.functions:
            handle = ctypes.c_void_p()
            check(self.driver.cuModuleGetFunction(ctypes.byref(handle), self.module, name.encode()))
            check(self.driver.cuFuncSetAttribute(handle, MAX_DYNAMIC_SHARED_SIZE, shared))
            self.functions[name, shared] = handle
        return self.functions[name, shared]

    def launch(
        self,
        name: str,
        grid: tuple[int, int, int],
        threads: int,
        shared: int,
        *arguments: Any,
        pdl: bool = False,
        cluster: int = 1,
    ) -> None:
        """Arguments are tensors (passed as pointers) and 32-bit integers; `cluster` blocks along x form a cluster."""
        values = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor) else ctypes.c_int(a) for a in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        attributes = (Attribute * 2)()
        wanted = [(PROGRAMMATIC_STREAM_SERIALIZATION, (1, 0, 0))] * pdl + [(CLUSTER_DIMENSION, (cluster, 1, 1))] * (
            cluster > 1
        )
        for attribute, (kind, value) in zip(attributes, wanted, strict=False):
            attribute.id, attribute.value = kind, (ctypes.c_uint * 16)(*value)
        stream = torch.cuda.current_stream().cuda_stream
        config = Config(*grid, threads, 1, 1, shared, stream, attributes, len(wanted))
        check(self.driver.cuLaunchKernelEx(ctypes.byref(config), self.function(name, shared), pointers, None))
