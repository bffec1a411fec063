"""Model configurations. Each family reads its keys with the helpers of config_gguf.py and config_hf.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from octavo.errors import ModelFileError
from octavo.ir import Attention
from octavo.models.rope import RopeConfig

# (lowest, highest) of what files may state
LAYERS = (1, 1024)
HIDDEN = (8, 1 << 17)
HEADS = (1, 1024)
HEAD_DIM = (2, 1024)
FFN = (8, 1 << 20)
VOCAB = (1, 1 << 24)
CONTEXT = (1, 1 << 28)
WINDOW = (0, 1 << 28)
EPS = (1e-12, 0.1)
THETA = (1.0, 1e12)
SOFTCAP = (0.0, 1e6)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes that every file states for a decoder with uniform layers. context: trained context in tokens."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    eps: float
    tied: bool = False


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One layer. rope: None where positions are not rotated. ffn: width of the MLP."""

    attention: Attention
    rope: RopeConfig | None
    ffn: int

    def __post_init__(self) -> None:
        heads, kv_heads = self.attention.heads, self.attention.kv_heads
        if heads % kv_heads:
            raise ModelFileError(f"model metadata: {heads} heads cannot share {kv_heads} key/value heads")
        if self.rope and self.rope.dim > self.attention.head_dim:
            raise ModelFileError(
                f"model metadata: {self.rope.dim} rotated dimensions do not fit into heads of {self.attention.head_dim}"
            )


@dataclass(frozen=True)
class ModelConfig:
    """A decoder. A family with extra constants extends this class.

    context: the longest sequence in tokens. tied: the language-model head is the embedding.
    logit_softcap: the head's logits are cap * tanh(x / cap); 0 is off.
    """

    hidden: int
    vocab: int
    context: int
    eps: float
    layers: tuple[LayerConfig, ...]
    tied: bool = False
    logit_softcap: float = 0.0


def make_config(
    sizes: Sizes,
    attention: Attention,
    windows: Sequence[int],
    rope: RopeConfig,
    local_rope: RopeConfig | None = None,
    logit_softcap: float = 0.0,
) -> ModelConfig:
    """The configuration of a decoder whose layers differ only in their windows.

    windows[i]: positions that layer i sees, its own included (0: all). local_rope: the rope of layers with a window, if
    it differs.
    """
    layers = (
        LayerConfig(replace(attention, window=window), (local_rope or rope) if window else rope, sizes.ffn)
        for window in windows
    )
    return ModelConfig(
        hidden=sizes.hidden,
        vocab=sizes.vocab,
        context=rope.scaling.context(sizes.context),
        eps=sizes.eps,
        layers=tuple(layers),
        tied=sizes.tied,
        logit_softcap=logit_softcap,
    )


def alternating(window: int, layers: int, global_every: int) -> tuple[int, ...]:
    """The windows of all layers: 0 (everything) in each `global_every`-th layer, `window` in the others."""
    return tuple(0 if (i + 1) % global_every == 0 else window for i in range(layers))
