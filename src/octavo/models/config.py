"""What a model is, in numbers. Read from GGUF metadata by config_gguf.py, from a config.json by config_hf.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from octavo.errors import ModelFileError
from octavo.models.rope import RopeScaling

# field: (GGUF key, config.json key, lowest, highest)
SIZES = {
    "layers": ("block_count", "num_hidden_layers", 1, 1024),
    "hidden": ("embedding_length", "hidden_size", 8, 1 << 17),
    "heads": ("attention.head_count", "num_attention_heads", 1, 1024),
    "ffn": ("feed_forward_length", "intermediate_size", 8, 1 << 20),
    "context": ("context_length", "max_position_embeddings", 1, 1 << 28),
}
HEADS = (1, 1024)
HEAD_DIM = (2, 1024)
WINDOW = (0, 1 << 28)
EPS = (1e-12, 0.1)
THETA = (1.0, 1e12)
SOFTCAP = (0.0, 1e6)

GEMMA3_GLOBAL_EVERY = 6  # layers 5, 11, ... see everything, the others a window (report, 2503.19786)
GEMMA3_LOCAL_THETA = 10_000.0  # rotary base of the windowed layers


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape and the constants of a decoder.

    windows[i]: positions that layer i sees, its own included (0: all).
    rope_interleaved: rotary pairs are (2i, 2i+1) instead of (i, i + head_dim/2).
    local_rope_theta: rotary base of the windowed layers where it differs; those are never stretched.
    Soft-caps: cap * tanh(x / cap), 0 is off.
    """

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    eps: float
    rope_theta: float
    attention_scale: float
    windows: tuple[int, ...]
    tied: bool = False
    rope_interleaved: bool = False
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    local_rope_theta: float | None = None
    embedding_scale: float = 1.0
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ModelFileError(f"model metadata: {self.heads} heads cannot share {self.kv_heads} key/value heads")
        if self.head_dim % 2:
            raise ModelFileError(f"model metadata: head dimension {self.head_dim} is odd; rotary pairs need it even")
        assert len(self.windows) == self.layers


def local_windows(window: int, layers: int, global_every: int) -> tuple[int, ...]:
    """`window` in every layer but each `global_every`-th, which sees everything (0: no such layer)."""
    return tuple(0 if global_every and (i + 1) % global_every == 0 else window for i in range(layers))


def family_of(architecture: str, known: dict[str, str]) -> str:
    if architecture not in known:
        raise ModelFileError(f"architecture {architecture!r} is not supported; supported: {', '.join(sorted(known))}")
    return known[architecture]
