"""What vLLM must be set to for plans to be carried out as they are."""

from __future__ import annotations

from typing import Any

from vllm.v1.kv_cache_interface import FullAttentionSpec


def refuse_what_bends_plans(scheduler: Any) -> None:
    """ValueError where vLLM would do otherwise than planned, step after step."""
    config, limits = scheduler.vllm_config, scheduler.scheduler_config
    specs = [group.kv_cache_spec for group in scheduler.kv_cache_config.kv_cache_groups]
    features = {"prefix caching": scheduler.cache_config.enable_prefix_caching, "a watermark": limits.watermark,
                "speculative decoding": scheduler.num_spec_tokens, "async scheduling": config.max_concurrent_batches > 1,
                "whole prompts only": not limits.enable_chunked_prefill,
                "more than one worker": config.parallel_config.world_size > 1}
    used = [name for name, on in features.items() if on]
    if used:
        raise ValueError(f"plans are carried out exactly, or not at all: turn off {' and '.join(used)}")
    if len(specs) != 1 or not isinstance(specs[0], FullAttentionSpec) or config.model_config.runner_type != "generate":
        raise ValueError("plans are about models that generate, all of whose layers attend to the whole context")
