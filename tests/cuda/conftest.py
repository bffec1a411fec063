"""The CUDA backend without a GPU: Triton's interpreter runs the kernels in numpy. Skipped where torch is not installed
(`scripts/setup --cuda` installs it)."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

GPU = os.environ.get("OCTAVO_TEST_GPU") == "1"
if not GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported
HERE = Path(__file__).parent
if any(find_spec(name) is None for name in ("torch", "triton")):
    collect_ignore_glob = ["test_*.py"]
elif not GPU:
    from triton import language
    from triton.runtime import interpreter

    def dot(builder: Any, a: Any, b: Any, acc: Any, *options: Any) -> Any:
        """A dot that adds column after column, as tensor cores do: in numpy's own an element's order of sums depends on
        its place in the tile."""
        total = acc.data.copy()
        left, right = a.data.astype(total.dtype), b.data.astype(total.dtype)
        for k in range(left.shape[1]):
            total += left[:, k, None] * right[k]
        return interpreter.TensorHandle(total, acc.dtype.scalar)

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        """A kernel's call of a function. Triton's own patches its language again, which takes most of the time: here it
        is patched once a launch, for all functions."""
        return self.rewrite()(*arguments, **options)

    patch, whole = interpreter._patch_lang, SimpleNamespace(__globals__={"tl": language, "core": language.core})
    interpreter._patch_lang = lambda fn: patch(whole)
    interpreter.InterpreterBuilder.create_dot = dot
    interpreter.InterpretedFunction.__call__ = call


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cuda)
