"""The pre-tokenizers that GGUF names in `tokenizer.ggml.pre`, and what each name implies.

A pre-tokenizer cuts text into words, which byte-level BPE then spells in tokens. The names and what they imply are
llama.cpp's (src/llama-vocab.cpp); the patterns are those of each model's own tokenizer.json, GPT-2's those of
openai/gpt-2 encoder.py. Missing are the names of architectures that are not read here, and "whitespace" and others
that are not byte-level.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from octavo.errors import TokenizerError

# Pieces of the patterns. UPPER and LOWER both have the letters without case, and combining marks.
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
SYMBOLS = r" ?[^\s\p{L}\p{N}]+"
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*%s"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Contractions in any case, words with one leading symbol, numbers in groups, newlines joined to preceding symbols.
TIKTOKEN = rf"{CONTRACTION}|{LETTERS}|%s|{SYMBOLS}[\r\n]*|{SPACES}"
QWEN35 = rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{SPACES}"
SEED = rf"{CONTRACTION}|{LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{SPACES}"
TEKKEN = rf"{CASED % ('', '')}|\p{{N}}|{SYMBOLS}[\r\n/]*|{SPACES}"
GPT4O = rf"{CASED % (CONTRACTION + '?', CONTRACTION + '?')}|\p{{N}}{{1,3}}|{SYMBOLS}[\r\n/]*|{SPACES}"
BLOOM = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
DEEPSEEK_V3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    rf"|{SPACES}"
)
# The letters with case of Latin, Greek, Cyrillic, Armenian, Georgian, Cherokee and some smaller scripts.
DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"


@dataclass(frozen=True, slots=True)
class Pre:
    """A pre-tokenizer. patterns: applied in turn, each to the pieces of the previous one.

    whole_words: a word that is a token stays whole, whatever the merges. bos: add a beginning-of-text token, unless
    the file sets this. nfc: normalise the text to NFC first.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    bos: bool = False
    nfc: bool = False


_WORDS = Pre((GPT2,))
_DIGITS = Pre((r"\p{N}", GPT2))
_TRIPLES = Pre((TIKTOKEN % r"\p{N}{1,3}",))
_LLAMA3 = replace(_TRIPLES, whole_words=True, bos=True)
_SINGLES = Pre((TIKTOKEN % r"\p{N}",))
_QWEN2 = replace(_SINGLES, nfc=True)
_GPT4O = Pre((GPT4O,))
_DEEPSEEK_V3 = Pre((r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", DEEPSEEK_V3))
_BLOOM = Pre((BLOOM,))

PRE: dict[str, Pre] = {
    "default": Pre((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    **dict.fromkeys(
        ("gpt-2", "gpt2", "phi-2", "olmo", "mpt", "jais", "gigachat", "a.x-4.0", "mellum", "exaone4", "trillion"),
        _WORDS,
    ),
    "granite-docling": _WORDS,
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"), _DIGITS
    ),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), _LLAMA3
    ),
    **dict.fromkeys(("smaug-bpe", "dbrx", "chatglm-bpe"), _TRIPLES),
    "glm4": replace(_TRIPLES, whole_words=True),
    "minicpm5": Pre((r"\p{N}{1,3}", TIKTOKEN % r"\p{N}+"), whole_words=True),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "f2llmv2"), _QWEN2),
    **dict.fromkeys(("kormo", "hunyuan", "solar-open", "stablelm2", "grok-2"), _SINGLES),
    "qwen35": Pre((QWEN35,)),
    "tekken": Pre((TEKKEN,), whole_words=True, bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), _GPT4O),
    "deepseek-llm": Pre(
        (
            "[\r\n]",
            rf"\s?[{DEEPSEEK_LETTERS}]+",
            r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+$",
            ASIAN,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": Pre(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", ASIAN, r"\p{N}")),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm"), _DEEPSEEK_V3),
    "falcon": Pre((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]")),
    **dict.fromkeys(("bloom", "gpt3-finnish", "poro-chat"), _BLOOM),
    "viking": Pre((BLOOM, r"\p{N}")),
    "seed-coder": Pre((SEED,)),
    "superbpe": Pre((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
}


def pre_tokenizer(name: Any, stated: str) -> Pre:
    """Returns the pre-tokenizer called `name` in GGUF. Raises TokenizerError for an unknown name.

    stated: where the name comes from, for the error.
    """
    if isinstance(name, str) and name in PRE:
        return PRE[name]
    raise TokenizerError(
        f"{stated}: the pre-tokenizer {name!r} is not known; name the one to use (tokenizer_pre=..., --tokenizer-pre), "
        "or give the model's own tokenizer.json (tokenizer=..., or --tokenizer of `octavo serve`); "
        f"known are {', '.join(sorted(PRE))}"
    )
