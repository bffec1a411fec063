"""Octavo: LLM inference on the machine you have.

    from octavo import LLM, SamplingParams

Names are imported when first used, so that `import octavo` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavo.config import EngineConfig
    from octavo.errors import (
        CapacityError,
        ConfigError,
        EngineError,
        ModelFileError,
        OctavoError,
        RequestError,
        TokenizerError,
    )
    from octavo.offline.beam import BeamSearchOutput, BeamSearchParams, BeamSearchSequence
    from octavo.offline.llm import LLM
    from octavo.outputs import (
        CompletionOutput,
        EmbeddingRequestOutput,
        Logprob,
        OutputDelta,
        PoolingRequestOutput,
        RequestOutput,
        ScoringRequestOutput,
    )
    from octavo.processing.inputs import TextPrompt, TokensPrompt
    from octavo.sampling_params import PoolingParams, RequestOutputKind, SamplingParams, StructuredOutputsParams
    from octavo.server.engine.async_llm import AsyncEngineArgs, AsyncLLM

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "AsyncEngineArgs",
    "AsyncLLM",
    "BeamSearchOutput",
    "BeamSearchParams",
    "BeamSearchSequence",
    "CapacityError",
    "CompletionOutput",
    "ConfigError",
    "EmbeddingRequestOutput",
    "EngineConfig",
    "EngineError",
    "Logprob",
    "ModelFileError",
    "OctavoError",
    "OutputDelta",
    "PoolingParams",
    "PoolingRequestOutput",
    "RequestError",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "ScoringRequestOutput",
    "StructuredOutputsParams",
    "TextPrompt",
    "TokenizerError",
    "TokensPrompt",
]

_HOMES = {
    "offline.beam": ("BeamSearchOutput", "BeamSearchParams", "BeamSearchSequence"),
    "config": ("EngineConfig",),
    "errors": (
        "CapacityError",
        "ConfigError",
        "EngineError",
        "ModelFileError",
        "OctavoError",
        "RequestError",
        "TokenizerError",
    ),
    "offline.llm": ("LLM",),
    "outputs": (
        "CompletionOutput",
        "EmbeddingRequestOutput",
        "Logprob",
        "OutputDelta",
        "PoolingRequestOutput",
        "RequestOutput",
        "ScoringRequestOutput",
    ),
    "processing.inputs": ("TextPrompt", "TokensPrompt"),
    "server.engine.async_llm": ("AsyncEngineArgs", "AsyncLLM"),
    "sampling_params": ("PoolingParams", "RequestOutputKind", "SamplingParams", "StructuredOutputsParams"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'octavo' has no attribute {name!r}")
    return getattr(import_module(f"octavo.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME_OF]
