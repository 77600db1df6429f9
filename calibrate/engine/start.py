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


def environment() -> dict[str, str]:
    """Everything in one process, no network, no usage report, nothing that is not installed; returns what was not set before."""
    wanted = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
              "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    if find_spec("flashinfer") is None:
        wanted["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    if find_spec("deep_gemm") is None:
        wanted["VLLM_USE_DEEP_GEMM"] = "0"
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(missing)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return missing


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


def _on_one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
