"""All that a GPU must show, in 12 minutes: see scripts/device.

    python -m bench.device [--seconds 720] [--wheels FOLDER] [--dry-run] [SECTION ...]

Sections, in this order: gates, invariance, kernels, engine, transformers. Figures go to $OUT/device.json too.
The exit status is 1 if a gate failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import zipfile
from importlib import import_module
from pathlib import Path

SECTIONS = {
    "gates": "bench.device.gates",
    "invariance": "bench.device.invariance",
    "kernels": "bench.device.kernels",
    "engine": "bench.device.engine",
    "transformers": "bench.device.eager",
}


def main() -> int:
    given = arguments()
    if given.wheels:
        unpack(given.wheels)
    if given.dry_run:
        os.environ.pop("OCTAVO_TEST_GPU", None)
        import_module("tests.cuda.conftest")  # Triton's interpreter, and what makes it faster
    from bench.device.report import Report

    report = Report(given.seconds)
    versions(report, given.dry_run)
    for name in given.sections or SECTIONS:
        report.section = name
        if report.left < 20:
            report.add("no time left", "left out")
            continue
        try:
            import_module(SECTIONS[name]).run(report)
        except Exception as problem:  # one section's failure must not cost the others their time on a GPU
            report.add(type(problem).__name__, str(problem)[:600], "failed")
            if given.dry_run:
                raise
        report.write()
    print("\n" + report.table())
    return 1 if report.failures() else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scripts/device", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--seconds", type=float, default=720, help="after which nothing more begins (720)")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that this machine lacks, such as msgspec's")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU: tiny sizes in Triton's interpreter")
    given = parser.parse_args()
    if unknown := set(given.sections) - set(SECTIONS):
        parser.error(f"unknown section {', '.join(sorted(unknown))}: choose from {', '.join(SECTIONS)}")
    return given


def unpack(folder: Path) -> None:
    """Makes wheels importable without pip or an index, here and in processes started from here."""
    to = tempfile.mkdtemp(prefix="wheels")
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as file:
            file.extractall(to)
    sys.path.insert(0, to)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [to, os.environ.get("PYTHONPATH")]))


def versions(report: object, dry: bool) -> None:
    import torch
    import triton

    from bench.device.report import Report

    assert isinstance(report, Report)
    report.section = "versions"
    card = "Triton's interpreter" if dry else torch.cuda.get_device_name()
    report.add("device", card)
    report.add("torch, triton, python", f"{torch.__version__}, {triton.__version__}, {sys.version.split()[0]}")


if __name__ == "__main__":
    sys.exit(main())
