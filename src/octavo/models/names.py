"""Tensor names. GGUF's are the canonical ones ("blk.3.attn_q.weight"); those of Hugging Face folders are renamed."""

from __future__ import annotations

import re
from collections.abc import Mapping

from octavo.errors import ModelFileError
from octavo.ir import Weight

HF_GLOBAL = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
# Of the pre-norm decoder; families with other parts extend it.
HF_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER = re.compile(r"layers\.(\d+)\.(.+)\.(weight|bias)")
# "model." is missing in a folder saved from a base model; "language_model." is there in multimodal ones.
_PREFIX = re.compile(r"^(?:model\.)?(?:language_model\.)?(?:model\.)?")
_NOT_TEXT = re.compile(r"(^|\.)(vision_tower|multi_modal_projector|rotary_emb)\.")


def rename_hf(tensors: Mapping[str, Weight], layer_names: Mapping[str, str]) -> dict[str, Weight]:
    """The text model's tensors under canonical names. Unknown names stay and fail the shape check later."""
    renamed: dict[str, Weight] = {}
    for name, weight in tensors.items():
        if _NOT_TEXT.search(name):
            continue
        canonical = _canonical(name, layer_names)
        if twin := renamed.get(canonical):
            raise ModelFileError(f"tensors {twin.name} and {name} are the same part of the model")
        renamed[canonical] = weight
    return renamed


def _canonical(name: str, layer_names: Mapping[str, str]) -> str:
    plain = _PREFIX.sub("", name)
    layer = _LAYER.fullmatch(plain)
    if layer and layer[2] in layer_names:
        return f"blk.{layer[1]}.{layer_names[layer[2]]}.{layer[3]}"
    return HF_GLOBAL.get(plain, name)
