"""vLLM's constructor arguments: those that change nothing here, those with another name, and those that are refused.

So scripts written for vLLM run, and nothing that would change an answer is passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from octavo.errors import ConfigError

log = logging.getLogger(__name__)

# Arguments about GPUs, about how a model's files are found and read, and about logs. Whatever their value, an answer
# and its speed stay the same: weights keep the encoding of the file, and no code is ever loaded with a model.
WITHOUT_EFFECT = (
    "allowed_local_media_path",
    "code_revision",
    "compilation_config",
    "config_format",
    "cpu_offload_gb",
    "cuda_graph_sizes",
    "disable_custom_all_reduce",
    "disable_hybrid_kv_cache_manager",
    "disable_log_requests",
    "disable_log_stats",
    "distributed_executor_backend",
    "dtype",
    "enable_log_requests",
    "guided_decoding_backend",
    "hf_token",
    "ignore_patterns",
    "limit_mm_per_prompt",
    "load_format",
    "max_context_len_to_capture",
    "max_logprobs",
    "max_parallel_loading_workers",
    "max_seq_len_to_capture",
    "mm_processor_kwargs",
    "model_loader_extra_config",
    "num_scheduler_steps",
    "optimization_level",
    "revision",
    "served_model_name",
    "structured_outputs_config",
    "swap_space",
    "tokenizer_mode",
    "tokenizer_revision",
    "trust_remote_code",
    "use_tqdm_on_load",
    "use_v2_block_manager",
)
NEUTRAL = (None, False, "auto")  # values that ask for nothing, so that they are not worth a line in the log

OTHER_NAMES = {
    "num_gpu_blocks_override": "num_kv_blocks",
    "kv_cache_memory_bytes": "kv_cache_memory",
    "scheduling_policy": "policy",
    "enforce_eager": "cuda_graphs",
}
OTHER_VALUES: dict[str, dict[Any, Any]] = {
    "kv_cache_dtype": {"bfloat16": "bf16", "float32": "f32"},
    "enforce_eager": {True: "off", False: None},
}

# Arguments with few possible values here, and why.
FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "convert": (("auto", "none", None), "embeddings need no conversion"),
    "data_parallel_size": ((1,), "one process runs the model"),
    "device": (("auto", "cpu", None), "backend chooses the device"),
    "disable_sliding_window": ((False,), "the model file says which layers have a window"),
    "enable_expert_parallel": ((False,), "one process runs the model"),
    "enable_lora": ((False,), "LoRA adapters are not supported"),
    "enable_sleep_mode": ((False,), "shutdown() frees the model"),
    "generation_config": (("vllm", None), "no sampling parameters are read from a model; pass SamplingParams"),
    "hf_overrides": ((None, {}), "the model file says what it is"),
    "kv_transfer_config": ((None,), "the KV cache stays in this process; see kv_disk_cache"),
    "logits_processors": ((None, [], ()), "use logit_bias, allowed_token_ids or structured_outputs"),
    "logprobs_mode": (("raw_logprobs",), "logprobs are the model's own"),
    "override_generation_config": ((None, {}), "pass SamplingParams"),
    "pipeline_parallel_size": ((1,), "one process runs the model"),
    "quantization": ((None, "gguf"), "the file says how its weights are quantised"),
    "rope_scaling": ((None, {}), "the model file says how positions are scaled"),
    "rope_theta": ((None,), "the model file says how positions are scaled"),
    "runner": (("auto", "generate", "pooling", None), "a model both generates and embeds"),
    "skip_tokenizer_init": ((False,), "the tokenizer is always loaded"),
    "task": (("auto", "generate", "embed", "embedding", "score", None), "a model both generates and embeds"),
    "tensor_parallel_size": ((1,), "one process runs the model"),
}
KNOWN = (*WITHOUT_EFFECT, *OTHER_NAMES, *FIXED)

_named: set[str] = set()  # arguments that the log has named: each is named once a process


def translate(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings with our names and values, without those of WITHOUT_EFFECT.

    Raises ConfigError for a value that asks for what is not done.
    """
    for name, (values, reason) in FIXED.items():
        if name in settings and settings[name] not in values:
            allowed = " or ".join(map(repr, values))
            raise ConfigError(f"{name} must be {allowed}: {reason}; got {settings[name]!r}")
    for name, ours in OTHER_NAMES.items():
        if name in settings and ours in settings:
            raise ConfigError(f"{name} and {ours} are the same setting: give one of them")
    return {
        OTHER_NAMES.get(name, name): _our_value(name, value)
        for name, value in settings.items()
        if name not in WITHOUT_EFFECT and name not in FIXED
    }


def _our_value(name: str, value: Any) -> Any:
    return OTHER_VALUES[name].get(value, value) if name in OTHER_VALUES and isinstance(value, str | bool) else value


def name_without_effect(settings: Mapping[str, Any]) -> None:
    """Logs the names of settings that ask for something and change nothing, each once in a process."""
    if new := [name for name, value in settings.items() if value not in NEUTRAL and name not in _named]:
        _named.update(new)
        log.warning("these settings change nothing here: %s", ", ".join(new))
