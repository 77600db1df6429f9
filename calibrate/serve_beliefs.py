"""Which profile a policy believes when the user names none, and whose step times in it."""

from __future__ import annotations

import os
from pathlib import Path

from sim.hardware import list_hardware, load_hardware, step_times
from sim.models import list_models
from traces import BadInput

from . import machine_facts
from .profile_model import Model

MEASURE = "tokenflow-calibrate profile, then fit, makes one of this machine"


def profile_for(given: str | None) -> str:
    """A built-in name, or the absolute path of a file: the server's processes may live elsewhere."""
    if given is not None:
        load_hardware(given)
        return given if given in list_hardware() else str(Path(given).resolve())
    gpus = machine_facts.gpus()
    if not gpus:
        raise BadInput("--profile", "this machine", f"has no NVIDIA GPU that a built-in profile could be of: give one; {MEASURE}")
    for name in list_hardware():
        if load_hardware(name).gpu.name == gpus[0].name:
            return name
    raise BadInput("--profile", gpus[0].name, f"there is no built-in profile of this GPU: give one; {MEASURE}")


def profile_model_for(given: str | None, profile: str, model: Model | None, name: str) -> str:
    """A model that the profile or the package knows, or the path of its config.json."""
    hardware = load_hardware(profile)
    if given is not None:
        found = str(Path(given).resolve()) if Path(given).exists() and given not in hardware.models else given
    elif name in hardware.models or name in list_models():
        found = name
    elif model is not None:
        found = str(model.directory / "config.json")
    elif config := _cached_config(name):
        found = str(config)
    else:
        known = ", ".join(sorted({*hardware.models, *list_models()}))
        raise BadInput("--profile-model", repr(name), f"its shapes are not known here: give one of {known}, or a config.json")
    step_times(hardware, found)
    return found


def _cached_config(name: str) -> Path | None:
    """The config.json of a Hugging Face model that has been downloaded before."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    found = (hub / f"models--{name.replace('/', '--')}" / "snapshots").glob("*/config.json")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
