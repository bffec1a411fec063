"""Every op test runs on each instruction set that this build and this processor have."""

from __future__ import annotations

import pytest

from octavo import _native


@pytest.fixture(params=_native.isas())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)
