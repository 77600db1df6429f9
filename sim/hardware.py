"""Hardware profiles (JSON), and the machine that a profile, a model and the user's options make.

`build_machine("rtx4090", "llama3-8b", mem_fraction=0.88)` is the usual way in. Every figure in a profile has its source and
says whether it was measured, fitted or estimated; `manifest` repeats that beside the results. A model that a profile has no step
times of gets those of one that it has, scaled: an estimate. Whatever a user gets wrong is a `BadInput`, one line.
`import sim` and a machine made by hand need no pydantic, whose import takes 0.2 s; this file and those it reads JSON with do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from math import ceil, isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, model_validator

from traces.cells import shown
from traces.errors import BadInput

from .geometry import ModelGeometry
from .link_choice import NONE, link_choice
from .machine import Machine
from .models import MODELS_FILE, PROFILES, list_models, load_model
from .scaling import ERROR, nearest, scaled
from .step_times import StepTimes
from .strict_json import Count, NotNegative, Positive, Strict, Text, read

__all__ = ["Hardware", "ModelGeometry", "build_machine", "fits", "list_hardware", "list_models", "load_hardware", "load_model",
           "manifest", "pool_tokens", "step_times"]

#: vLLM keeps block 0 of the pool for padding; no request ever holds it
_NULL_BLOCKS = 1

_MEM_FRACTION = 0.9     # vLLM's default
_NO_LINK = "absent: no host tier, whoever is preempted is computed anew"

Share = Annotated[float, Field(gt=0, le=1)]

class Gpu(Strict):
    name: Text
    memory_bytes: Annotated[int, Field(ge=0)]   #: 0: none, or not known; the pool is measured or given then
    source: Text


class HostLink(Strict):
    """Between host and GPU memory; each rate is of one direction alone."""

    h2d_bytes_per_s: Positive
    d2h_bytes_per_s: Positive
    copy_overhead_s: NotNegative    #: per copy
    status: Text                    #: measured or estimated, and on what
    source: Text
    duplex_h2d: Share = 1.0         #: of its rate, what a direction keeps while the other copies too; overheads stay as they are
    duplex_d2h: Share = 1.0
    duplex_status: Text = "assumed: full duplex"
    duplex_source: str = ""
    note: str = ""


class EngineDefaults(Strict):
    max_num_seqs: Count
    max_num_batched_tokens: Count
    rule: Text


class HostTime(Strict):
    """Seconds of each step that the GPU waits for the host, with the range they may lie in."""

    value: NotNegative
    low: NotNegative
    high: NotNegative
    status: Text

    @model_validator(mode="after")
    def _ordered(self) -> HostTime:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"value {self.value} lies outside its range [{self.low}, {self.high}]")
        return self


class Hardware(Strict):
    """One hardware profile."""

    name: Text
    gpu: Gpu
    link: HostLink | None = None    #: None: no host tier
    kv_layout: Literal["contiguous", "per-layer"] = "contiguous"    #: per-layer: K and V of each layer are copied on their own
    defaults: EngineDefaults
    reserve_bytes: NotNegative      #: activations and CUDA graphs, inside the memory fraction as vLLM's is
    reserve_source: Text
    reserve_model: Text | None = None   #: whose they are; those of a wider model are more. None: of any model
    write_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    host_s: HostTime
    models: Mapping[str, StepTimes]     #: any other is scaled from the nearest of them, the first of several


_HARDWARE = TypeAdapter(Hardware)


def list_hardware() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(entry.name.removesuffix(".json") for entry in PROFILES.iterdir()
                  if entry.name.endswith(".json") and entry.name != MODELS_FILE)


def load_hardware(name_or_path: str | Path) -> Hardware:
    """A profile of the package by name, or the user's own by path."""
    if isinstance(name_or_path, str) and name_or_path in list_hardware():
        return _built_in(name_or_path)
    if not isinstance(name_or_path, str | Path):
        raise BadInput("hardware", shown(name_or_path), "must be the name of a profile or the path of one")
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and path.suffix != ".json" and path.name == name_or_path:
        known = ", ".join(list_hardware())
        raise BadInput("hardware", repr(name_or_path), f"unknown; known are {known}, or give the path of a JSON profile")
    try:
        text = path.read_bytes()
    except (OSError, ValueError) as error:
        raise BadInput("hardware profile", str(path), getattr(error, "strerror", None) or str(error)) from None
    return read(_HARDWARE, text, f"hardware profile {path}")


def build_machine(
    hardware: str | Path | Hardware,
    model: str | Path,
    *,
    mem_fraction: float | None = None,
    kv_tokens: int | None = None,
    host_kv_tokens: int | None = None,
    block_size: int = 16,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    host_s: float | None = None,
    believed_step: float = 1.0,
    believed_link: float = 1.0,
    link: str | float | None = None,
) -> Machine:
    """The machine that runs `model` (a name, or the path of a Hugging Face config.json) on `hardware`.

    `mem_fraction`: weights + reserve + KV over GPU memory, as vLLM's gpu_memory_utilization and SGLang's
    mem_fraction_static mean it; by default the pool is the one that the profiled engine had, if the profile says, else 0.9 counts.
    `kv_tokens` replaces what follows from it: the figure a server logs as "GPU KV cache size", null block included; weights and
    reserve must fit all the same. `host_kv_tokens`: the host pool, by default twice the
    usable GPU pool; 0 is no host tier. `link`: "oracle" (copies take no time), "none" (no host tier) or GB/s each way.
    `believed_*`: what the policy believes, as multiples of the truth. The rest replaces the profile's own values.
    """
    profile = hardware if isinstance(hardware, Hardware) else load_hardware(hardware)
    where = f"{model} on {profile.name}"
    geometry, times = step_times(profile, model)
    block = _whole("block_size", block_size, where)
    taken = geometry.weight_bytes + _reserve_bytes(profile, geometry)
    _must_fit(profile, geometry, taken, block, where)
    if kv_tokens is None and mem_fraction is None:
        kv_tokens = times.kv_tokens
    pool = (_pool_blocks(profile, geometry, taken, _MEM_FRACTION if mem_fraction is None else mem_fraction, block, where)
            if kv_tokens is None else _given_blocks(kv_tokens, block, where))
    usable = pool - _NULL_BLOCKS
    defaults, pcie = profile.defaults, profile.link
    chosen = None if link is None else link_choice(link, where)
    if chosen is NONE and host_kv_tokens:
        raise BadInput("host_kv_tokens", where, f"{host_kv_tokens} tokens, but link none means no host tier")
    if pcie is None and chosen is None:
        if host_kv_tokens:
            why = f"{host_kv_tokens} tokens, but this hardware has no link to host memory; give link"
            raise BadInput("host_kv_tokens", where, why)
        host_kv_tokens = 0
    step_tokens = (defaults.max_num_batched_tokens if max_num_batched_tokens is None
                   else _whole("max_num_batched_tokens", max_num_batched_tokens, where))
    seats = min(defaults.max_num_seqs, step_tokens) if max_num_seqs is None else _whole("max_num_seqs", max_num_seqs, where)
    if seats > step_tokens:
        raise BadInput("max_num_batched_tokens", where, f"{step_tokens} tokens a step for {seats} requests: each may need one")
    machine = Machine(
        latency=times.latency.with_host(profile.host_s.value if host_s is None else _seconds("host_s", host_s, where)),
        kv_blocks=usable,
        host_kv_blocks=2 * usable if host_kv_tokens is None else _host_blocks(host_kv_tokens, block, where),
        block_size=block,
        kv_token_bytes=float(geometry.kv_token_bytes),
        max_seqs=seats,
        max_step_tokens=step_tokens,
        copies_per_block=1 if profile.kv_layout == "contiguous" else 2 * geometry.layers,
        write_share=profile.write_share,
        believed_step=_positive("believed_step", believed_step, where),
        believed_link=_positive("believed_link", believed_link, where),
    )
    if pcie is not None:
        machine = replace(machine, h2d_bytes_per_s=pcie.h2d_bytes_per_s, d2h_bytes_per_s=pcie.d2h_bytes_per_s,
                          duplex_h2d=pcie.duplex_h2d, duplex_d2h=pcie.duplex_d2h, copy_overhead_s=pcie.copy_overhead_s)
    return replace(machine, **chosen.machine) if chosen else machine


def manifest(hardware: str | Path | Hardware, model: str | Path, *, host_s: float | None = None,
             link: str | float | None = None, mem_fraction: float | None = None,
             kv_tokens: int | None = None) -> dict[str, str | float]:
    """What a result must say about its machine: flat, every estimate named as one.

    All but the first two: what the user gave `build_machine`, if anything; it replaced the profile's own.
    """
    profile = hardware if isinstance(hardware, Hardware) else load_hardware(hardware)
    geometry, times = step_times(profile, model)
    host, reserve = profile.host_s, profile.reserve_source
    chosen = None if link is None else link_choice(link, f"{model} on {profile.name}")
    if _reserve_bytes(profile, geometry) != profile.reserve_bytes:
        reserve += f"; scaled by MLP width from {profile.reserve_model}"
    licence = f" ({times.licence})" if times.licence else ""
    said: dict[str, str | float] = {
        "hardware": profile.name,
        "gpu": profile.gpu.name,
        "model": str(model),
        "model_parameters": geometry.parameters,
        "latency_status": times.status,
        "latency_source": f"{times.engine} {times.engine_version}: {times.source}{licence}",
        "host_s": host.value if host_s is None else host_s,
        "host_s_status": f"{host.status}; range {host.low:g} to {host.high:g} s" if host_s is None else "set by the user",
        "link_status": chosen.status if chosen else profile.link.status if profile.link else _NO_LINK,
        "reserve_status": reserve,
    }
    if profile.link and (chosen is None or chosen.keeps_duplex):
        said["link_duplex_status"] = profile.link.duplex_status
    if times.kv_tokens is not None and mem_fraction is None and kv_tokens is None:
        said["kv_pool_status"] = f"measured: {times.kv_tokens} tokens in the profiled engine"
    if _is_scaled(profile, model):
        said["scaling_error"] = ERROR
    if times.fit_error is not None:
        errors = times.fit_error.model_dump(exclude={"rows"}, exclude_none=True)
        said |= {f"fit_{name}": value for name, value in errors.items()}
    if times.untold:
        said["fit_untold"] = "; ".join(times.untold)
    return said


def step_times(profile: Hardware, model: str | Path) -> tuple[ModelGeometry, StepTimes]:
    """The model, and how long its steps take there: as the profile says, or scaled from the nearest model that it has."""
    geometry = _geometry(profile, model)
    if not _is_scaled(profile, model):
        return geometry, profile.models[str(model)]
    known = {name: _geometry(profile, name) for name in profile.models}
    source = nearest(known, geometry)
    if source is None:
        raise BadInput("model", repr(str(model)), f"{profile.name} has step times of no model from which to scale its own")
    status = f"estimated: scaled from {source} on {profile.name} by weight bytes, KV bytes and FLOPs"
    if profile.models[source].status.startswith("estimated"):
        status += ", itself an estimate"
    return geometry, scaled(profile.models[source], known[source], geometry, status)


def pool_tokens(profile: Hardware, model: str | Path, block_size: int = 16) -> int:
    """Tokens of KV that requests can hold beside the model's weights, in the share of memory that engines take by default."""
    geometry = _geometry(profile, model)
    taken = geometry.weight_bytes + _reserve_bytes(profile, geometry)
    blocks = _pool_blocks(profile, geometry, taken, _MEM_FRACTION, block_size, f"{model} on {profile.name}")
    return (blocks - _NULL_BLOCKS) * block_size


def fits(profile: Hardware, model: str | Path) -> bool:
    """Whether the model runs there with default options."""
    try:
        build_machine(profile, model)
    except BadInput:
        return False
    return True


@cache
def _built_in(name: str) -> Hardware:
    file = f"{name}.json"
    return read(_HARDWARE, PROFILES.joinpath(file).read_bytes(), f"hardware profile {file}")


def _geometry(profile: Hardware, model: str | Path) -> ModelGeometry:
    """Of a model that the profile brings, that the package knows, or that a config.json describes."""
    own = profile.models.get(str(model))
    return own.geometry if own and own.geometry else load_model(model)


def _is_scaled(profile: Hardware, model: str | Path) -> bool:
    return str(model) not in profile.models


def _reserve_bytes(profile: Hardware, geometry: ModelGeometry) -> float:
    """Activations grow with the MLP; what CUDA graphs and logits take does not shrink with it."""
    if profile.reserve_model is None:
        return profile.reserve_bytes
    return profile.reserve_bytes * max(1.0, geometry.intermediate / _geometry(profile, profile.reserve_model).intermediate)


def _must_fit(profile: Hardware, geometry: ModelGeometry, taken: float, block: int, where: str) -> None:
    need, memory = _least_bytes(geometry, taken, block), profile.gpu.memory_bytes
    if need > memory > 0:
        raise BadInput("GPU memory", where, (
            f"weights ({geometry.weight_bytes / 1e9:.1f} GB), reserve ({(taken - geometry.weight_bytes) / 1e9:.1f}) and two KV "
            f"blocks need {need / 1e9:.1f} of {memory / 1e9:.1f} GB: it does not fit on this GPU at all"))


def _least_bytes(geometry: ModelGeometry, taken: float, block: int) -> float:
    """What the smallest machine takes: one block for requests, beside what is taken and the null block."""
    return taken + (_NULL_BLOCKS + 1) * block * geometry.kv_token_bytes


def _pool_blocks(profile: Hardware, geometry: ModelGeometry, taken: float, mem_fraction: float, block: int, where: str) -> int:
    """Blocks of the pool, null block included."""
    if not (_is_number(mem_fraction) and 0 < mem_fraction <= 1):
        raise BadInput("mem_fraction", where, f"must lie in (0, 1], got {mem_fraction}")
    memory = profile.gpu.memory_bytes
    if not memory:
        raise BadInput("kv_tokens", where, "the profile knows no GPU memory to divide: the KV pool must be given")
    blocks = int((mem_fraction * memory - taken) // (block * geometry.kv_token_bytes))
    if blocks > _NULL_BLOCKS:
        return blocks
    need = _least_bytes(geometry, taken, block)
    smallest = ceil(need / memory * 1e4) / 1e4
    raise BadInput("mem_fraction", where, (
        f"{mem_fraction} of {memory / 1e9:.1f} GB is {mem_fraction * memory / 1e9:.1f}, but weights "
        f"({geometry.weight_bytes / 1e9:.1f} GB), reserve ({(taken - geometry.weight_bytes) / 1e9:.1f}) and two KV blocks need "
        f"{need / 1e9:.1f} GB; the smallest fraction that works is {smallest}"))


def _given_blocks(kv_tokens: int, block: int, where: str) -> int:
    """Blocks of a pool of this many tokens, null block included."""
    blocks = _whole("kv_tokens", kv_tokens, where) // block
    if blocks <= _NULL_BLOCKS:
        raise BadInput("kv_tokens", where, f"{kv_tokens} is less than two blocks of {block} tokens; one is the engine's null block")
    return blocks


def _host_blocks(host_kv_tokens: int, block: int, where: str) -> int:
    tokens = _whole("host_kv_tokens", host_kv_tokens, where, least=0)
    if 0 < tokens < block:
        raise BadInput("host_kv_tokens", where, f"{tokens} is less than one block of {block} tokens; 0 means no host tier")
    return tokens // block


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def _whole(what: str, value: int, where: str, least: int = 1) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise BadInput(what, where, f"must be a whole number, at least {least}, got {value}")
    return int(value)


def _positive(what: str, value: float, where: str) -> float:
    if not (_is_number(value) and value > 0):
        raise BadInput(what, where, f"must be a positive number, got {value}")
    return float(value)


def _seconds(what: str, value: float, where: str) -> float:
    if not (_is_number(value) and value >= 0):
        raise BadInput(what, where, f"must be a number of seconds, zero or more, got {value}")
    return float(value)
