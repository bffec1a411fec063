"""What users import stays where it is."""

from __future__ import annotations

from importlib import import_module

import pytest

import octavo

PUBLIC = {
    "octavo": octavo.__all__,
    "octavo.config": ["EngineConfig"],
    "octavo.errors": ["CapacityError", "ConfigError", "ModelFileError", "OctavoError", "RequestError"],
    "octavo.outputs": ["CompletionOutput", "Logprob", "OutputDelta", "RequestOutput"],
    "octavo.sampling_params": ["PoolingParams", "RequestOutputKind", "SamplingParams", "StructuredOutputs"],
    "octavo.types": ["SamplingParams", "StructuredOutputs"],
}
SAME = {"StructuredOutputsParams": "StructuredOutputs"}  # two names of one class


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names(module: str) -> None:
    for name in PUBLIC[module]:
        assert getattr(import_module(module), name).__name__ == SAME.get(name, name)
