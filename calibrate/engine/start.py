"""Starts real vLLM in this process. `environment()` must come before anything imports it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from calibrate.profile_grid import Limits
from traces import BadInput

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def environment() -> dict[str, str]:
    """Everything in one process, no network, no usage report, nothing that is not installed; returns what was not set before."""
    wanted = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"} | OFFLINE | missing_kernels()
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(missing)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return missing


def missing_kernels() -> dict[str, str]:
    """What vLLM would take and cannot, as variables of its environment."""
    switches = {"flashinfer": "VLLM_USE_FLASHINFER_SAMPLER", "deep_gemm": "VLLM_USE_DEEP_GEMM"}
    return {variable: "0" for module, variable in switches.items() if find_spec(module) is None}


def start(directory: Path, arguments: Mapping[str, Any]) -> tuple[Any, str]:
    """A vLLM LLMEngine for the model in `directory`, and what it runs on, cuda or cpu. BadInput if it does not start."""
    environment()
    try:
        from vllm import EngineArgs
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine
    except ImportError as error:
        raise BadInput("vllm", "import", f"{error}; tokenflow-calibrate doctor says what to install") from None
    if not current_platform.device_type:
        raise BadInput("vllm", "platform", "finds no device that it was built for; tokenflow-calibrate doctor says more")
    known = {field.name for field in fields(EngineArgs)}
    for name in arguments:
        if name not in known:
            raise BadInput(f"--{name.replace('_', '-')}", "vllm", "this version has no such engine argument")
    given = dict(arguments)
    if "attention_backend" in given:    # only the parts of a configuration are parsed from text
        given["attention_config"] = {"backend": given.pop("attention_backend")}
    try:
        # The defaults of `vllm serve`, which is what a profile is for; LLM has others.
        engine = LLMEngine.from_engine_args(EngineArgs(model=str(directory), **given), usage_context=UsageContext.OPENAI_API_SERVER)
    except Exception as error:
        raise BadInput("engine", str(directory.name), f"did not start: {_on_one_line(error)}") from None
    return engine, "cuda" if current_platform.is_cuda() else current_platform.device_type


def limits_of(config: Any) -> Limits:
    """Of a resolved VllmConfig."""
    return Limits(int(config.model_config.max_model_len), int(config.scheduler_config.max_num_seqs),
                  int(config.scheduler_config.max_num_batched_tokens), int(config.cache_config.num_gpu_blocks or 0),
                  int(config.cache_config.block_size))


def facts_of(config: Any, device: str) -> dict[str, Any]:
    """A resolved VllmConfig, for machine.json; None where this version does not tell."""
    import torch
    limits = limits_of(config)
    names = {
        "dtype": "model_config.dtype", "max_model_len": "model_config.max_model_len", "seed": "model_config.seed",
        "quantization": "model_config.quantization", "load_format": "load_config.load_format",
        "block_size": "cache_config.block_size", "gpu_memory_utilization": "cache_config.gpu_memory_utilization",
        "kv_cache_memory_bytes": "cache_config.kv_cache_memory_bytes", "kv_cache_dtype": "cache_config.cache_dtype",
        "enable_prefix_caching": "cache_config.enable_prefix_caching", "max_num_seqs": "scheduler_config.max_num_seqs",
        "max_num_batched_tokens": "scheduler_config.max_num_batched_tokens",
        "enable_chunked_prefill": "scheduler_config.enable_chunked_prefill",
        "async_scheduling": "scheduler_config.async_scheduling", "scheduling_policy": "scheduler_config.policy",
        "tensor_parallel_size": "parallel_config.tensor_parallel_size", "enforce_eager": "model_config.enforce_eager",
        "compilation_mode": "compilation_config.mode", "cudagraph_mode": "compilation_config.cudagraph_mode",
        "cudagraph_capture_sizes": "compilation_config.cudagraph_capture_sizes",
    }
    resolved = {name: _plain(_reach(config, path)) for name, path in names.items()}
    graphs = str(resolved["cudagraph_mode"] or "NONE")
    return {
        "dtype": str(resolved["dtype"]).removeprefix("torch."), "block_size": limits.block_size,
        "num_gpu_blocks": limits.num_gpu_blocks, "max_num_seqs": limits.max_num_seqs,
        "max_num_batched_tokens": limits.max_num_batched_tokens, "max_model_len": limits.max_model_len,
        "enforce_eager": bool(resolved["enforce_eager"]), "cuda_graphs": graphs if device == "cuda" else "NONE",
        "async_scheduling": bool(resolved["async_scheduling"]), "attention_backend": _attention(config),
        "load_format": str(resolved["load_format"]), "threads": int(torch.get_num_threads()), "engine_args": resolved,
    }


def _attention(config: Any) -> str | None:
    """Name of the first attention layer's backend."""
    layers = _reach(config, "compilation_config.static_forward_context") or {}
    for layer in layers.values():
        backend = getattr(layer, "attn_backend", None)
        if backend is not None:
            return str(backend.get_name())
    chosen: str | None = _plain(_reach(config, "attention_config.backend"))
    return chosen


def _reach(found: Any, path: str) -> Any:
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _plain(value: Any) -> Any:
    """As JSON has it; enums by name."""
    if value is None or isinstance(value, bool | int | float | str):
        return getattr(value, "name", value)
    if isinstance(value, list | tuple | set):
        return [_plain(inner) for inner in value]
    return str(getattr(value, "name", value))


def _on_one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
