"""Small random models of every family, written as GGUF files or Hugging Face folders, with a byte-level tokenizer.

A model is fixed by its `Tiny`: the same one written both ways holds the same numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from octavo.tokenizer.spm import derive_merges
from octavo.tokenizer.vocab import Kind
from octavo.types import F32
from octavo.weights.gguf_writer import write_gguf
from tests.quantize import quantize

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3")
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GEMMA_HF_NAMES = {
    **HF_NAMES,
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True)
class Tiny:
    """type: GGUF encoding of the matrices; K-quants need hidden, ffn and heads * head_dim to be multiples of 256.

    gguf, hf: further metadata, without the architecture's prefix in GGUF's case.
    sentencepiece: a vocabulary of SPM_SIZE pieces that puts a space before a text, as Llama 2's; otherwise bytes.
    """

    family: str = "llama"
    layers: int = 2
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    ffn: int = 96
    vocab: int = 320
    context: int = 512
    tied: bool = True
    type: str = "F32"
    window: int = 0  # of every layer; of Gemma's every other one, and then 16 if not given
    seed: int = 0
    gguf: dict[str, Any] = field(default_factory=dict)
    hf: dict[str, Any] = field(default_factory=dict)
    sentencepiece: bool = False


def write_tiny_gguf(path: Path, tiny: Tiny = Tiny(), marks: Sequence[str] = ()) -> Path:
    """marks: texts of control tokens that replace the last merged pairs, for example those of fill-in-the-middle."""
    weights = {}
    for name, array in tiny_arrays(tiny).items():
        if tiny.family == "llama" and (".attn_q." in name or ".attn_k." in name):
            array = interleave(array, tiny.head_dim)
        weights[name] = quantize(array, tiny.type if array.ndim > 1 else "F32", name)
    metadata = tiny_metadata(tiny)
    write_gguf(path, _marked(metadata, marks) if marks else metadata, weights)
    return path


def _marked(metadata: dict[str, Any], marks: Sequence[str]) -> dict[str, Any]:
    tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
    first = len(tokens) - len(SPECIALS) - len(marks)
    changed = [*tokens[:first], *marks, *tokens[len(tokens) - len(SPECIALS) :]]
    kinds = np.array([3 if token in (*SPECIALS, *marks) else 1 for token in changed], np.int32)
    merges = merges[: len(merges) - len(marks)]
    names = ("tokens", "token_type", "merges")
    return metadata | {
        f"tokenizer.ggml.{name}": each for name, each in zip(names, (changed, kinds, merges), strict=True)
    }


def write_tiny_hf(folder: Path, tiny: Tiny = Tiny(), dtype: str = "F32") -> Path:
    """dtype: F32, F16 or BF16. Gemma's norms are stored minus one, as its folders have them."""
    folder.mkdir(exist_ok=True)
    cast = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}[dtype]
    names = GEMMA_HF_NAMES if tiny.family == "gemma3" else HF_NAMES
    arrays = {}
    for name, array in tiny_arrays(tiny).items():
        folded = tiny.family == "gemma3" and name.endswith("norm.weight")
        arrays[hf_name(name, names)] = np.ascontiguousarray(array - 1 if folded else array).astype(cast)
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(tiny_config(tiny)))
    if tiny.sentencepiece:
        write_spm_tokenizer(folder)
    else:
        write_tokenizer(folder, tiny.vocab)
    return folder


BASES = {"llama": "LlamaModel", "qwen2": "Qwen2Model", "qwen3": "Qwen3Model", "gemma3": "Gemma3TextModel"}


def write_base(folder: Path, family: str = "llama", **config: Any) -> Path:
    """A model without its head, as transformers' AutoModel saves it. Beside it, in FOLDER-whole, the same with a head.

    config: further keys of its config.json.
    """
    tiny = Tiny(family, tied=False)
    write_tiny_hf(folder.with_name(f"{folder.name}-whole"), tiny)
    write_tiny_hf(folder, tiny)
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("model."): each for name, each in tensors.items() if name != "lm_head.weight"}
    save_file(bare, folder / "model.safetensors")
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stated, "architectures": [BASES[family]], **config}))
    return folder


def tiny_arrays(tiny: Tiny) -> dict[str, F32]:
    """All weights under GGUF's names, rotary pairs in NeoX order, norms as they multiply.

    Each matrix keeps the magnitude of its input. The output norm is large, so that the distribution over tokens is as
    peaked as a trained model's. Gemma's embeddings are small, because Gemma scales them up: otherwise a model with a
    tied head would repeat the token that it has just seen.
    """
    rng = np.random.default_rng([tiny.seed, FAMILIES.index(tiny.family)])
    q, kv, hidden = tiny.heads * tiny.head_dim, tiny.kv_heads * tiny.head_dim, tiny.hidden

    def matrix(rows: int, columns: int, std: float = 1.0) -> F32:
        return (rng.standard_normal((rows, columns)) * std / math.sqrt(columns)).astype(np.float32)

    def vector(size: int, mean: float, std: float) -> F32:
        return (mean + std * rng.standard_normal(size)).astype(np.float32)

    embedding = 0.2 if tiny.family == "gemma3" else 1.0
    arrays = {"token_embd.weight": matrix(tiny.vocab, hidden, embedding)}
    for i in range(tiny.layers):
        layer = {
            "attn_norm.weight": vector(hidden, 1, 0.2),
            "attn_q.weight": matrix(q, hidden, 1.5),
            "attn_k.weight": matrix(kv, hidden, 1.5),
            "attn_v.weight": matrix(kv, hidden),
            "attn_output.weight": matrix(hidden, q),
            "ffn_norm.weight": vector(hidden, 1, 0.2),
            "ffn_gate.weight": matrix(tiny.ffn, hidden),
            "ffn_up.weight": matrix(tiny.ffn, hidden),
            "ffn_down.weight": matrix(hidden, tiny.ffn),
        }
        if tiny.family == "qwen2":
            layer |= {f"attn_{name}.bias": vector(size, 0, 0.5) for name, size in (("q", q), ("k", kv), ("v", kv))}
        if tiny.family in ("qwen3", "gemma3"):
            layer |= {f"attn_{name}_norm.weight": vector(tiny.head_dim, 1.5, 0.3) for name in "qk"}
        if tiny.family == "gemma3":
            layer |= {f"post_{name}_norm.weight": vector(hidden, 0.7, 0.1) for name in ("attention", "ffw")}
        arrays |= {f"blk.{i}.{name}": array for name, array in layer.items()}
    arrays["output_norm.weight"] = vector(hidden, 6, 0.6) / np.float32(embedding if tiny.tied else 1)
    if not tiny.tied:
        arrays["output.weight"] = matrix(tiny.vocab, hidden)
    return arrays


def tiny_metadata(tiny: Tiny) -> dict[str, Any]:
    gemma = tiny.family == "gemma3"
    keys = {
        "block_count": tiny.layers,
        "context_length": tiny.context,
        "embedding_length": tiny.hidden,
        "feed_forward_length": tiny.ffn,
        "attention.head_count": tiny.heads,
        "attention.head_count_kv": tiny.kv_heads,
        "attention.key_length": tiny.head_dim,
        "attention.value_length": tiny.head_dim,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 10_000.0,
        **({"attention.sliding_window": tiny.window} if tiny.window else {}),
        **({"attention.sliding_window": tiny.window or 16, "attention.sliding_window_pattern": 2} if gemma else {}),
        **tiny.gguf,
    }
    head = {
        "general.architecture": tiny.family,
        "general.name": f"tiny {tiny.family}",
        **{f"{tiny.family}.{key}": value for key, value in keys.items()},
    }
    if tiny.sentencepiece:
        return head | spm_metadata()
    tokens, merges = tiny_vocabulary(tiny.vocab)
    return {
        **head,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([3 if token in SPECIALS else 1 for token in tokens], np.int32),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def tiny_config(tiny: Tiny) -> dict[str, Any]:
    """config.json."""
    gemma = tiny.family == "gemma3"
    tokens, _ = tiny_vocabulary(tiny.vocab)
    return {
        "model_type": "gemma3_text" if gemma else tiny.family,
        "num_hidden_layers": tiny.layers,
        "max_position_embeddings": tiny.context,
        "hidden_size": tiny.hidden,
        "intermediate_size": tiny.ffn,
        "num_attention_heads": tiny.heads,
        "num_key_value_heads": tiny.kv_heads,
        "head_dim": tiny.head_dim,
        "vocab_size": tiny.vocab,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": tiny.tied,
        "sliding_window": tiny.window or (16 if gemma else None),
        "eos_token_id": 2 if tiny.sentencepiece else tokens.index("<|im_end|>"),
        **({"query_pre_attn_scalar": tiny.head_dim, "sliding_window_pattern": 2} if gemma else {}),
        **tiny.hf,
    }


def tiny_vocabulary(size: int) -> tuple[list[str], list[str]]:
    """(tokens, merges): every byte, merges of two letters, and the special tokens at the end."""
    letters = "etaoinshrdlu"
    pairs = [(a, b) for a in letters for b in letters][: size - 256 - len(SPECIALS)]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in pairs), *SPECIALS]
    assert len(tokens) == size, "a vocabulary of 259 to 403 tokens can be made"
    return tokens, [f"{a} {b}" for a, b in pairs]


def write_tokenizer(folder: Path, vocab: int) -> None:
    tokens, merges = tiny_vocabulary(vocab)
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(ids, [(a, b) for a, b in map(str.split, merges)]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "bos_token": "<|endoftext|>", "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@cache
def spm_data() -> dict[str, Any]:
    """A vocabulary that sentencepiece trained, with byte fallback and a space before each text; `source` says more."""
    path = Path(__file__).parent / "data" / "tokenizers" / "spm.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


SPM_SIZE = 400


def spm_metadata() -> dict[str, Any]:
    """The keys of a tokenizer in GGUF; bos 1 and eos 2 go without saying."""
    data = spm_data()
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": data["pieces"],
        "tokenizer.ggml.scores": np.array(data["scores"], np.float32),
        "tokenizer.ggml.token_type": np.array(data["kinds"], np.int32),
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def write_spm_tokenizer(folder: Path, legacy: bool = True) -> None:
    """tokenizer.json as transformers writes it for Llama 2: legacy with a normaliser, newer ones with Metaspace."""
    data = spm_data()
    ranked = sorted(
        (i for i, kind in enumerate(data["kinds"]) if kind == Kind.NORMAL), key=lambda i: -data["scores"][i]
    )
    merges = derive_merges([data["pieces"][i] for i in ranked])
    ids = {piece: i for i, piece in enumerate(data["pieces"])}
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        tokenizer.normalizer = normalizers.Sequence(steps)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    strip = decoders.Strip(content=" ", left=1)
    back = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    tokenizer.decoder = decoders.Sequence(back)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "chat_template": CHAT_TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def interleave(array: F32, head_dim: int) -> F32:
    """Rows of q or k from NeoX's order of rotary pairs (i, i + dim/2) to llama's in GGUF (2i, 2i+1)."""
    heads = array.reshape(-1, 2, head_dim // 2, *array.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2).reshape(array.shape))


def hf_name(name: str, names: dict[str, str] = HF_NAMES) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    parts = name.split(".")
    prefix = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
    return f"{prefix}{names[parts[-2]]}.{parts[-1]}"
