"""Dependencies point one way (docs/architecture.md). Imports are parsed, not run, so lazy imports count too."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import octavo

ROOT = Path(octavo.__file__).parent

# What each part may import from octavo besides itself. A part is a name directly below octavo/, or "backends.X".
# Every other part is above the engine (server, cli, llm, ...): it may import anything, but no part below imports it.
VOCABULARY = {"types", "sampling_params", "errors", "config"}
DEVICE = VOCABULARY | {"ir", "backends.base", "backends.host"}
ALLOWED: dict[str, set[str]] = {
    "types": {"sampling_params"},
    "sampling_params": {"unsupported"},
    "unsupported": {"errors"},
    "errors": set(),
    "ir": set(),
    "_native": set(),
    "config": {"errors"},
    "wire": {"types"},
    "kv": VOCABULARY,
    "sampling": VOCABULARY | {"kv"},
    "spec": VOCABULARY | {"kv", "sampling", "backends.base"},
    "scheduler": VOCABULARY | {"kv", "sampling"},
    "engine": VOCABULARY | {"kv", "sampling", "spec", "scheduler", "backends.base"},
    "ahead": VOCABULARY | {"engine", "kv", "spec", "scheduler", "backends.base"},
    "weights": VOCABULARY | {"ir"},
    "tokenizer": VOCABULARY | {"weights"},
    "chat": VOCABULARY | {"tokenizer"},
    "answers": VOCABULARY | {"sampling"},
    "models": VOCABULARY | {"ir", "weights"},
    "backends": set(),
    "backends.base": VOCABULARY | {"ir"},
    "backends.registry": VOCABULARY | {"backends.base", "backends.host"},
    "backends.host": {"backends.base", "types"},
    "backends.null": DEVICE | {"kv"},
    "backends.reference": DEVICE | {"backends.reference_kv", "backends.plan", "weights", "sampling", "kv"},
    "backends.reference_kv": VOCABULARY | {"ir"},
    "backends.plan": {"ir", "errors"},
    "backends.cpu": DEVICE | {"_native", "backends.plan", "weights", "kv"},
    "backends.cuda": DEVICE | {"backends.plan", "weights", "kv", "sampling"},
}
CONTROL_PLANE = ("types", "errors", "config", "kv", "sampling", "spec", "scheduler", "engine", "ahead")
TENSOR_LIBRARIES = {"torch", "triton", "tensorflow", "jax"}
NATIVE = {"backends.cpu", "bench"}  # the parts that may import the compiled module: the CPU backend, and the benchmarks
# No import statement leads to these.
BY_NAME = ("__main__", "cli", "models", "backends", "bench.peers", "bench.control_plane", "server.engine.process")


@cache
def modules() -> dict[str, Path]:
    """Dotted names below octavo ("kv.blocks") of all source files. The compiled module is there by its stub."""
    paths = sorted([*ROOT.rglob("*.py"), *ROOT.rglob("*.pyi")])
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in names.items() if name != "__init__"}


def part(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "backends" else parts[0]


@cache
def imports(path: Path) -> set[str]:
    """Absolute names of everything that a file imports, anywhere in it. Imports for types only count too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own(path: Path) -> set[str]:
    """The parts of octavo that a file imports. `from octavo import x` of a plain name (a version) counts as none."""
    known = {part(module) for module in modules()}
    inside = {name.removeprefix("octavo.") for name in imports(path) if name.startswith("octavo.")}
    return {found for name in inside if (found := part(name)) in known}


@pytest.mark.parametrize("module", [name for name in modules() if part(name) in ALLOWED])
def test_dependencies_point_one_way(module: str) -> None:
    excess = own(modules()[module]) - {part(module)} - ALLOWED[part(module)]
    assert not excess, f"octavo.{module} imports {', '.join(sorted(excess))}"


@pytest.mark.parametrize("module", [name for name in modules() if part(name) not in ALLOWED])
def test_what_is_above_the_engine_is_imported_by_its_like_only(module: str) -> None:
    """So a new part below the engine must be added to ALLOWED."""
    users = {part(name) for name, path in modules().items() if part(module) in own(path)} - {part(module)}
    assert not users & ALLOWED.keys()


@pytest.mark.parametrize("module", [name for name in modules() if part(name) in CONTROL_PLANE])
def test_the_control_plane_knows_no_tensor_library_and_no_device(module: str) -> None:
    found = imports(modules()[module])
    assert not {name.split(".")[0] for name in found} & TENSOR_LIBRARIES
    assert not {name for name in found if name.startswith("octavo.backends.") and part(name[7:]) != "backends.base"}


def test_only_the_cpu_backend_needs_the_compiled_module() -> None:
    """Without it, files can be read and other backends run (tests/unit/test_without_native.py)."""
    assert {part(name) for name, path in modules().items() if "_native" in own(path)} == NATIVE


def test_nothing_in_the_default_install_imports_torch() -> None:
    users = [
        name for name, path in modules().items() if {found.split(".")[0] for found in imports(path)} & TENSOR_LIBRARIES
    ]
    assert not [name for name in users if part(name) != "backends.cuda"]


@pytest.mark.parametrize("module", [name for name in modules() if not name.startswith(BY_NAME)])
def test_nothing_is_shipped_that_only_tests_use(module: str) -> None:
    name = f"octavo.{module}"
    users = [other for other, path in modules().items() if other != module and _reaches(imports(path), name)]
    assert users, f"{name} is imported by no other module: it belongs in tests/, or nowhere"


def _reaches(found: set[str], name: str) -> bool:
    return any(each == name or each.startswith(f"{name}.") for each in found)


def test_the_rule_has_teeth(tmp_path: Path) -> None:
    source = tmp_path / "bad.py"
    source.write_text(
        "from octavo import _native\ndef f():\n    from octavo.backends.null import NullBackend\n    import torch.nn\n"
    )
    assert imports(source) == {"octavo._native", "octavo.backends.null.NullBackend", "torch.nn"}
    assert own(source) == {"_native", "backends.null"}
