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
# stays the same: weights keep the encoding of the file, and no code is ever loaded with a model.
WITHOUT_EFFECT = (
    "allowed_local_media_path",
    "allowed_media_domains",
    "attention_backend",
    "calculate_kv_scales",
    "code_revision",
    "compilation_config",
    "config_format",
    "cpu_offload_gb",
    "cuda_graph_sizes",
    "disable_async_output_proc",
    "disable_cascade_attn",
    "disable_chunked_mm_input",
    "disable_custom_all_reduce",
    "disable_hybrid_kv_cache_manager",
    "disable_log_requests",
    "disable_log_stats",
    "disable_mm_preprocessor_cache",
    "distributed_executor_backend",
    "dtype",
    "enable_log_requests",
    "fully_sharded_loras",
    "guided_decoding_backend",
    "hf_token",
    "ignore_patterns",
    "interleave_mm_strings",
    "kv_sharing_fast_prefill",
    "limit_mm_per_prompt",
    "load_format",
    "lora_dtype",
    "lora_extra_vocab_size",
    "max_context_len_to_capture",
    "max_cpu_loras",
    "max_logprobs",
    "max_long_partial_prefills",
    "max_lora_rank",
    "max_loras",
    "max_num_partial_prefills",
    "max_parallel_loading_workers",
    "max_seq_len_to_capture",
    "mm_encoder_tp_mode",
    "mm_processor_cache_gb",
    "mm_processor_kwargs",
    "model_impl",
    "model_loader_extra_config",
    "multi_step_stream_outputs",
    "num_lookahead_slots",
    "num_scheduler_steps",
    "optimization_level",
    "prefix_caching_hash_algo",
    "ray_workers_use_nsight",
    "revision",
    "safetensors_load_strategy",
    "scheduler_delay_factor",
    "served_model_name",
    "show_hidden_metrics_for_version",
    "skip_mm_profiling",
    "structured_outputs_config",
    "swap_space",
    "tokenizer_mode",
    "tokenizer_pool_size",
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

# Arguments with few possible values here, and why. Some of them change nothing: any real value is possible then.
VALUES: dict[str, tuple[tuple[Any, ...], str]] = {
    "chat_template": ((None,), "pass it to chat()"),
    "config_format": (("auto", "hf"), "a model is a GGUF file, or a folder with a config.json of transformers"),
    "convert": (("auto", "none", "embed", None), "models here generate and embed; they classify nothing"),
    "data_parallel_size": ((1,), "one process runs the model"),
    "decode_context_parallel_size": ((1,), "one process runs the model"),
    "device": (("auto", "cpu", None), "backend chooses the device"),
    "disable_sliding_window": ((False,), "the model file says which layers have a window"),
    "distributed_executor_backend": ((None, "mp", "ray", "uni", "external_launcher"), "one process runs the model"),
    "download_dir": ((None,), "set the environment variable HF_HOME, or OCTAVO_HOME for models by alias"),
    "dtype": (
        ("auto", "half", "float16", "bfloat16", "float", "float32"),
        "weights keep the encoding of the file, and sums are in float32",
    ),
    "enable_expert_parallel": ((False,), "one process runs the model"),
    "enable_lora": ((False,), "LoRA adapters are not supported"),
    "enable_prompt_adapter": ((False,), "prompt adapters are not supported"),
    "enable_prompt_embeds": ((False,), "a prompt is text or token ids"),
    "enable_sleep_mode": ((False,), "shutdown() frees the model"),
    "generation_config": (("vllm", None), "no sampling parameters are read from a model; pass SamplingParams"),
    "guided_decoding_backend": (
        (None, "auto", "guidance", "lm-format-enforcer", "outlines", "xgrammar"),
        "llguidance follows grammars here",
    ),
    "hf_config_path": ((None,), "the model file says what it is"),
    "hf_overrides": ((None, {}), "the model file says what it is"),
    "kv_transfer_config": ((None,), "the KV cache stays in this process; see kv_disk_cache"),
    "load_format": (
        ("auto", "gguf", "safetensors", "fastsafetensors", "instanttensor", "runai_streamer"),
        "weights are read from GGUF files and from safetensors",
    ),
    "logits_processor_pattern": ((None,), "use logit_bias, allowed_token_ids or structured_outputs"),
    "logits_processors": ((None, [], ()), "use logit_bias, allowed_token_ids or structured_outputs"),
    "logprobs_mode": (("raw_logprobs",), "logprobs are the model's own"),
    "model_impl": (("auto", "vllm", "transformers", "terratorch"), "Octavo's own code runs the model"),
    "optimization_level": ((None, 0, 1, 2, 3), "nothing is compiled when a model is loaded"),
    "override_generation_config": ((None, {}), "pass SamplingParams"),
    "override_pooler_config": ((None,), "pass PoolingParams"),
    "pipeline_parallel_size": ((1,), "one process runs the model"),
    "pooler_config": ((None,), "pass PoolingParams"),
    "quantization": ((None, "gguf"), "the file says how its weights are quantised"),
    "reasoning_parser": ((None, ""), "it is an option of `octavo serve`"),
    "rope_scaling": ((None, {}), "the model file says how positions are scaled"),
    "rope_theta": ((None,), "the model file says how positions are scaled"),
    "runner": (("auto", "generate", "pooling", None), "a model both generates and embeds"),
    "skip_tokenizer_init": ((False,), "the tokenizer is always loaded"),
    "task": (("auto", "generate", "embed", "embedding", "score", None), "a model both generates and embeds"),
    "tensor_parallel_size": ((1,), "one process runs the model"),
    "tokenizer_mode": (("auto", "hf", "slow"), "the tokenizer is the one in the model's files"),
    "worker_cls": (("auto", None), "the backend chooses what runs the model"),
}
# Arguments that say what to download. Their only possible values for a model named hf:..., and what to do instead.
DOWNLOADS: dict[str, tuple[tuple[Any, ...], str]] = {
    "hf_token": ((None, False, True), "set the environment variable HF_TOKEN"),
    "revision": ((None, "main"), "only the main branch is downloaded; give the path of another one's files"),
    "tokenizer_revision": ((None, "main"), "only the main branch is downloaded"),
}
KNOWN = (*WITHOUT_EFFECT, *OTHER_NAMES, *VALUES)

_named: set[str] = set()  # arguments that the log has named: each is named once a process


def translate(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings with our names and values, without those of WITHOUT_EFFECT.

    Raises ConfigError for a value that asks for what is not done.
    """
    _check(settings, VALUES)
    for name, ours in OTHER_NAMES.items():
        if name in settings and ours in settings:
            raise ConfigError(f"{name} and {ours} are the same setting: give one of them")
    return {
        OTHER_NAMES.get(name, name): _our_value(name, value)
        for name, value in settings.items()
        if name not in WITHOUT_EFFECT and name not in VALUES
    }


def check_download(source: str, settings: Mapping[str, Any]) -> None:
    """Raises ConfigError for an argument about downloads that would matter, because `source` is one."""
    if source.startswith("hf:"):
        _check(settings, DOWNLOADS)


def _check(settings: Mapping[str, Any], possible: Mapping[str, tuple[tuple[Any, ...], str]]) -> None:
    for name, (values, reason) in possible.items():
        if name in settings and _plain(settings[name]) not in values:
            allowed = " or ".join(map(repr, values))
            raise ConfigError(f"{name} must be {allowed}: {reason}; got {settings[name]!r:.60}")


def _plain(value: Any) -> Any:
    """The name of one of torch's types, which scripts pass as `dtype`; any other value as it is."""
    return str(value).removeprefix("torch.") if type(value).__module__ == "torch" else value


def _our_value(name: str, value: Any) -> Any:
    return OTHER_VALUES[name].get(value, value) if name in OTHER_VALUES and isinstance(value, str | bool) else value


def name_without_effect(settings: Mapping[str, Any]) -> None:
    """Logs the names of settings that ask for something and change nothing, each once in a process."""
    if new := [name for name, value in settings.items() if value not in NEUTRAL and name not in _named]:
        _named.update(new)
        log.warning("these settings change nothing here: %s", ", ".join(new))
