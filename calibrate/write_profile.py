"""A fit as a hardware profile that `sim.hardware.load_hardware` reads: the JSON of one machine with step times of one model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from sim.geometry import ModelGeometry
from sim.hardware import Hardware, list_hardware, load_hardware
from sim.models import list_models, load_model
from sim.strict_json import read
from traces import BadInput

from .fit_report import doubts
from .fitting import Fit
from .held_out import HALVES
from .link_fit import read_link
from .regions import Errors
from .solver import PARAMETERS

_PROFILE, _GEOMETRY = TypeAdapter(Hardware), TypeAdapter(ModelGeometry)
_LARGE = 70 * 2**30         # bytes of GPU memory from which vLLM's API server takes larger steps
_COEFFICIENTS, _ROUGH, _PERCENT = "{:.5g}", "{:.3g}", "{:.3g}"


@dataclass(frozen=True)
class Origin:
    """Which machine and engine the steps were measured on; what a table does not say, its user must."""

    machine: Mapping[str, Any]      #: a profile without name, host_s and models
    model: str                      #: its key in the profile
    times: Mapping[str, Any]        #: what `sim.step_times.StepTimes` says of the engine and the source


def of_table(fit: Fit, gpu: str, memory_gib: float | None, model: str, engine: str | None, version: str | None,
             source: str | None) -> Origin:
    """A table made by others. `gpu`: a built-in profile, which gives memory and links as well, or any name beside `memory_gib`."""
    facts, geometry = fit.table.facts, load_model(model)
    path = Path(model)
    key = model if model in list_models() else path.resolve().parent.name if path.name == "config.json" else path.stem
    return Origin(of_gpu(gpu, memory_gib), key, {
        "engine": engine or facts.get("backend", "not said"), "engine_version": version or facts.get("backend_version", "not said"),
        "source": source or facts.get("source", Path(fit.table.source).name),
        **({} if model in list_models() else {"geometry": geometry.model_dump()})})


def of_gpu(gpu: str, memory_gib: float | None) -> dict[str, Any]:
    """A profile without name, host_s and models."""
    if gpu in list_hardware():
        if memory_gib is not None:
            raise BadInput("--memory-gib", f"{memory_gib:g}", f"the profile {gpu} says how much memory that GPU has")
        built_in = json.loads(load_hardware(gpu).model_dump_json(exclude_none=True))
        return {key: value for key, value in built_in.items() if key not in ("name", "host_s", "models")}
    if memory_gib is None:
        raise BadInput("--memory-gib", "(not given)", f"{gpu!r} is no built-in profile: say how much memory that GPU has")
    if not 0 < memory_gib < 1e6:
        raise BadInput("--memory-gib", f"{memory_gib:g}", "must be a number of GiB above 0")
    return _usual(gpu, int(memory_gib * 2**30), "given by the user")


def without_times(machine: Mapping[str, Any]) -> Hardware:
    """The machine alone, as sim knows it."""
    content = {"name": machine["gpu"]["name"], **machine, "models": {},
               "host_s": {"value": 0.0, "low": 0.0, "high": 0.0, "status": "not known"}}
    return _PROFILE.validate_json(json.dumps(content))


def of_samples(fit: Fit, folder: Path) -> Origin:
    """The samples of `tokenflow-calibrate profile`."""
    facts = fit.table.facts

    def fact(name: str, kind: type = str) -> Any:
        value = facts.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise BadInput("samples", str(folder / "machine.json"), f"{name} must be of kind {kind.__name__}, got {value!r}")
        return value

    geometry = read(_GEOMETRY, json.dumps(facts.get("geometry")).encode(), f"samples {folder / 'machine.json'}: geometry")
    on_gpu = fact("device") == "cuda"
    name = str(facts.get("gpu_name") or facts.get("cpu") or "unknown") if on_gpu else str(facts.get("cpu") or "CPU")
    memory = fact("gpu_memory_bytes", int) if on_gpu else 0
    machine = _usual(name, memory, f"torch {facts.get('torch')}, driver {facts.get('driver')}" if on_gpu else "a CPU has none")
    machine["defaults"] = {"max_num_seqs": fact("max_num_seqs", int), "max_num_batched_tokens": fact("max_num_batched_tokens", int),
                           "rule": "as the profiled engine was configured"}
    pool = fact("num_gpu_blocks", int) * fact("block_size", int)
    arguments = facts.get("engine_args")
    given = arguments if isinstance(arguments, dict) else {}
    if given.get("kv_cache_dtype", "auto") not in ("auto", geometry.dtype):
        raise BadInput("samples", str(folder / "machine.json"), (
            f"KV of type {given['kv_cache_dtype']}: the model of memory and copies knows KV of the weights' type only"))
    share = given.get("gpu_memory_utilization")
    asked = facts.get("asked")
    set_here = given | (asked if isinstance(asked, dict) else {})
    by_hand = any(set_here.get(name) for name in ("kv_cache_memory_bytes", "num_gpu_blocks_override"))
    if on_gpu and isinstance(share, float) and not by_hand:
        rest = share * memory - geometry.weight_bytes - pool * geometry.kv_token_bytes
        if rest > 0:
            machine |= {"reserve_bytes": round(rest), "reserve_model": fact("model"), "reserve_source": (
                "measured: what the engine left of its share of memory beside weights and KV")}
    link = read_link(folder, name) if on_gpu else None
    known = fact("model") in list_models() and load_model(facts["model"]).kv_token_bytes == geometry.kv_token_bytes
    how = [str(facts.get("dtype")), *(["CUDA graphs" if facts.get("cuda_graphs") else "eager"] if on_gpu else [])]
    return Origin(machine | ({} if link is None else {"link": link}), fact("model"), {
        "engine": "vLLM", "engine_version": str(facts.get("vllm") or "not said"), "date": str(facts.get("date") or ""),
        "source": f"tokenflow-calibrate profile on {name}: {', '.join(how)}, {facts.get('attention_backend')}, "
        f"weights {facts.get('load_format')}",
        **({} if known else {"geometry": geometry.model_dump()}), "kv_tokens": pool})


def profile_of(fit: Fit, origin: Origin, name: str) -> dict[str, Any]:
    """The profile as JSON holds it; BadInput if it is none that sim can read."""
    host = fit.host
    content = {
        "name": name, **origin.machine,
        "host_s": {"value": _figure(host.value_s), "low": _figure(host.low_s), "high": _figure(host.high_s), "status": host.status},
        "models": {origin.model: step_times(fit, origin.times)},
    }
    try:
        _PROFILE.validate_json(json.dumps(content))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise BadInput("profile", ".".join(map(str, fault["loc"])), fault["msg"]) from None
    return content


def step_times(fit: Fit, said: Mapping[str, Any]) -> dict[str, Any]:
    """`sim.step_times.StepTimes` of a fit: what `said` holds, and the fit's own figures in place of what it held of them."""
    kind = "steps timed in the engine" if fit.host.measured else "table of whole steps" if fit.host.inside_s else "kernel tables"
    host = "measured" if fit.host.measured else "given" if fit.host.inside_s else "assumed"
    halves = fit.held_out.halves
    told = [(key, limits) for key, limits in zip(PARAMETERS, fit.intervals) if not np.isnan(limits).any()]
    return {
        "latency": dict(zip(PARAMETERS, map(_figure, fit.parameters))),
        **{key: value for key, value in said.items() if key not in ("latency", "geometry", "kv_tokens", *_FITTED)},
        "how_fitted": how_fitted(fit),
        "status": f"fitted ({kind}, host time {host})",
        **({} if halves is None else {"fit_error": fit_error(halves, len(fit.table))}),
        "intervals_90": {key: [_rough(low), _rough(high)] for key, (low, high) in told},
        **({"untold": untold} if (untold := doubts(fit)) else {}),
        **{key: said[key] for key in ("geometry", "kv_tokens") if key in said},
    }


_FITTED = ("how_fitted", "status", "fit_error", "intervals_90", "untold")


def how_fitted(fit: Fit) -> str:
    return (f"six coefficients, robust relative residuals, on {len(fit.table)} rows; 90 % intervals by bootstrap; errors of fits "
            f"to {HALVES} random halves on the other halves")


def fit_error(halves: Mapping[str, Errors], rows: int) -> dict[str, Any]:
    """`sim.step_times.FitError`."""
    found: dict[str, Any] = {"rows": rows, "test_mape_pct": _percent(halves["all"].mape)}
    found |= {f"{phase}_mape_pct": _percent(halves[phase].mape) for phase in ("prefill", "decode") if phase in halves}
    return found | {"p90_pct": _percent(halves["all"].p90), "max_pct": _percent(halves["all"].max)}


def as_json(content: Mapping[str, Any]) -> str:
    """Indented, pairs of numbers on one line."""
    text = json.dumps(content, indent=2, allow_nan=False)
    return re.sub(r"\[\n\s+([-+.\de]+),\n\s+([-+.\de]+)\n\s+\]", r"[\1, \2]", text) + "\n"


def _usual(gpu: str, memory_bytes: int, source: str) -> dict[str, Any]:
    """A GPU that nobody has described: vLLM's defaults by memory, and a reserve like that of GPUs like it."""
    large = memory_bytes >= _LARGE
    seats, tokens = (1024, 8192) if large and "A100" not in gpu.upper() else (256, 2048)
    return {
        "gpu": {"name": gpu, "memory_bytes": memory_bytes, "source": source},
        "kv_layout": "contiguous",
        "defaults": {"max_num_seqs": seats, "max_num_batched_tokens": tokens, "rule": "vLLM's API server defaults by GPU memory"},
        "reserve_bytes": 1_000_000_000 if large else 450_000_000 if memory_bytes else 0,
        "reserve_source": "estimated: activations and CUDA graphs of an 8B model" if memory_bytes else "none: no GPU memory",
    }


def _figure(value: float) -> float:
    return float(_COEFFICIENTS.format(value))


def _rough(value: float) -> float:
    return float(_ROUGH.format(value))


def _percent(value: float) -> float:
    return float(_PERCENT.format(value))
