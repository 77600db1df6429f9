"""Real vLLM in this process, driven one step at a time, each step timed in its parts.

Written for 0.26.0 and 0.32.0; what differs between versions, and what is not public, is in this file. Run on 0.32.0 on a CPU.
`environment()` must come before anything imports vLLM.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from calibrate.profile_grid import Limits, Point
from traces import BadInput

_FIRST_TOKEN = 10           # below are special ones
_FRESH, _PREFIX = 1, 2      # what a prompt's random numbers are seeded with
_LONG = 1024                # output tokens of a decode that is to outlast its point
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
_PARTS = ("schedule", "execute_model", "sample_tokens", "update_from_output")


class TimeUp(Exception):
    """The budget ended while a point was being set up."""


@dataclass(frozen=True)
class Step:
    """One engine step: what was in it, and how long its parts took, in seconds."""

    latency_s: float        #: from the start of schedule to the end of update_from_output
    forward_s: float        #: of execute_model, until its results are there where `synchronised`
    schedule_s: float
    sample_s: float
    update_s: float
    decodes: int
    kv_tokens: int          #: context before the step, of the decodes
    chunks: tuple[tuple[int, int], ...]     #: (tokens, tokens done before), of every prompt
    synchronised: bool      #: the GPU was waited for after the forward

    def is_(self, point: Point) -> bool:
        return (self.decodes == point.decodes
                and self.chunks == ((point.chunk_tokens, point.done_tokens),) * point.chunks)

    def __str__(self) -> str:
        return f"{self.decodes} decodes + prompt chunks of {sorted(tokens for tokens, _ in self.chunks)}"


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


class Engine:
    """Sets up the steps of a `Point` and takes them. BadInput if it does not start."""

    def __init__(self, directory: Path, vocab: int, arguments: Mapping[str, Any]) -> None:
        environment()
        try:
            import torch
            from vllm import EngineArgs, SamplingParams
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
        self._torch, self._sampling = torch, SamplingParams
        self.device = "cuda" if current_platform.is_cuda() else current_platform.device_type
        try:
            # The defaults of `vllm serve`, which is what a profile is for; LLM has others.
            self._engine = LLMEngine.from_engine_args(EngineArgs(model=str(directory), **given),
                                                      usage_context=UsageContext.OPENAI_API_SERVER)
        except Exception as error:
            raise BadInput("engine", str(directory.name), f"did not start: {_on_one_line(error)}") from None
        core = self._engine.engine_core.engine_core
        self._scheduler = core.scheduler
        self.config: Any = self._engine.vllm_config
        self.limits = _limits(self.config)
        self._vocab, self._made, self._prefixes = vocab, 0, dict[int, np.ndarray]()
        self._synchronise = False
        self._began, self._ended, self._took_s = 0.0, 0.0, dict.fromkeys(_PARTS, 0.0)
        self._content: tuple[int, int, tuple[tuple[int, int], ...]] = (0, 0, ())
        for part in _PARTS:
            owner = self._scheduler if part in ("schedule", "update_from_output") else core.model_executor
            setattr(owner, part, self._timed(part, getattr(owner, part)))

    # ---- what a point needs

    def begin(self, point: Point, in_time: Callable[[], bool]) -> None:
        """Bring the point's decodes to their context, and what is done of its prompts into the prefix cache."""
        prompts = [self._prefix(i, point.context) for i in range(point.decodes)]
        prompts += [self._prefix(i, point.done_tokens) for i in range(point.chunks) if point.done_tokens]
        for prompt in prompts:
            self._add(prompt, 1)
        while self._engine.has_unfinished_requests():
            self._step(in_time)
        for prompt in prompts[:point.decodes]:
            self._add(prompt, min(_LONG, self.limits.max_model_len - point.context))
        while self._content[0] < point.decodes and self._engine.has_unfinished_requests():
            self._step(in_time)

    def step(self, point: Point, synchronise: bool) -> Step:
        """One step of the point; its prompts are new each time."""
        for i in range(point.chunks):
            done = self._prefix(i, point.done_tokens) if point.done_tokens else []
            self._made += 1
            self._add(done + self._random(_FRESH, self._made, point.chunk_tokens), 1)
        self._synchronise = synchronise and self.device == "cuda"
        self._took_s = dict.fromkeys(_PARTS, 0.0)
        self._engine.step()
        decodes, kv_tokens, chunks = self._content
        took = self._took_s
        return Step(self._ended - self._began, took["execute_model"], took["schedule"], took["sample_tokens"],
                    took["update_from_output"], decodes, kv_tokens, chunks, self._synchronise)

    def clear(self) -> None:
        """No requests, as before `begin`."""
        self._synchronise = False
        self._engine.abort_request([str(i) for i in range(self._oldest, self._requests)])
        self._oldest = self._requests
        for _ in range(8):
            if not self._scheduler.has_requests():
                break
            self._engine.step()
        self._content = (0, 0, ())

    def survives(self) -> bool:
        """Whether it still takes steps after an error; memory that nobody uses goes back to the GPU."""
        try:
            self.clear()
            if self.device == "cuda":
                self._torch.cuda.empty_cache()
            self.begin(Point(1, min(32, self.limits.max_model_len // 2)), lambda: True)
            self.clear()
        except Exception:
            return False
        return True

    _requests = _oldest = 0

    def _add(self, prompt: list[int], max_tokens: int) -> None:
        self._engine.add_request(str(self._requests), {"prompt_token_ids": prompt}, self._sampling(
            temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False))
        self._requests += 1

    def _step(self, in_time: Callable[[], bool]) -> None:
        if not in_time():
            raise TimeUp
        self._engine.step()

    def _prefix(self, index: int, tokens: int) -> list[int]:
        """The first tokens of the index-th of many sequences, always the same ones, so that vLLM's prefix cache knows them."""
        if len(self._prefixes.get(index, ())) < tokens:
            self._prefixes[index] = np.random.default_rng((_PREFIX, index)).integers(
                _FIRST_TOKEN, self._vocab, self.limits.max_model_len, dtype=np.int32)
        found: list[int] = self._prefixes[index][:tokens].tolist() if tokens else []
        return found

    def _random(self, *seed_and_size: int) -> list[int]:
        *seed, size = seed_and_size
        found: list[int] = np.random.default_rng(seed).integers(_FIRST_TOKEN, self._vocab, size).tolist()
        return found

    # ---- the clock

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kw: Any) -> Any:
            start_s = time.perf_counter()
            result = function(*args, **kw)
            if part == "execute_model" and self._synchronise:
                self._torch.cuda.synchronize()
            end_s = time.perf_counter()
            self._took_s[part] += end_s - start_s
            if part == "schedule":
                self._began, self._content = start_s, self._scheduled(result)
            elif part == "update_from_output":
                self._ended = end_s
            return result
        return timed

    def _scheduled(self, output: Any) -> tuple[int, int, tuple[tuple[int, int], ...]]:
        """Decodes, their context, and the prompt chunks that this SchedulerOutput holds."""
        decodes = kv_tokens = 0
        chunks = []
        for id, tokens in output.num_scheduled_tokens.items():
            request = self._scheduler.requests[id]
            before = request.num_computed_tokens - tokens       # schedule() has advanced it
            if before >= request.num_prompt_tokens:
                decodes, kv_tokens = decodes + 1, kv_tokens + before
            else:
                chunks.append((tokens, before))
        return decodes, kv_tokens, tuple(chunks)

    # ---- facts

    def facts(self) -> dict[str, Any]:
        """The resolved configuration, for machine.json; None where this version does not tell."""
        config, limits = self.config, self.limits
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
            "enforce_eager": bool(resolved["enforce_eager"]), "cuda_graphs": graphs if self.device == "cuda" else "NONE",
            "async_scheduling": bool(resolved["async_scheduling"]), "attention_backend": _attention(config),
            "load_format": str(resolved["load_format"]), "threads": int(self._torch.get_num_threads()), "engine_args": resolved,
        }


def _limits(config: Any) -> Limits:
    return Limits(int(config.model_config.max_model_len), int(config.scheduler_config.max_num_seqs),
                  int(config.scheduler_config.max_num_batched_tokens), int(config.cache_config.num_gpu_blocks or 0),
                  int(config.cache_config.block_size))


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
