"""Real models for tests that need one."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo.weights.aliases import ALIASES, cached


def model_path(alias: str) -> Path:
    """The alias's file, if it is in the cache folder or an installed package; else the test is skipped."""
    path = cached(ALIASES[alias])
    if path is None:
        pytest.skip(f"{alias} is not in OCTAVO_HOME: run `octavo pull {alias}`")
    return path
