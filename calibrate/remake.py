"""The built-in profiles, made anew from the published tables they rest on.

What a table says is fitted again; every other figure of a profile (memory, links, defaults, sources) stays as it is.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sim.hardware import list_hardware
from sim.models import PROFILES
from sim.saving import Draft
from traces import BadInput

from . import a6000
from .fitting import Fit, fit_steps
from .pool import feasible
from .tables import read_steps
from .write_profile import as_json, step_times

#: which table the step times of a model on a profile are fitted to
TABLES = {
    ("a100", "llama3-8b"): "aic_a100_llama3.1-8b_vllm.csv",
    ("h100", "llama3-8b"): "aic_h100_llama3.1-8b_vllm.csv",
    ("h200", "llama3-8b"): "aic_h200_llama3.1-8b_vllm.csv",
    ("h200", "qwen2.5-7b"): "aic_h200_qwen2.5-7b_vllm.csv",
    ("h200", "qwen2-7b"): "aic_h200_qwen2.5-7b_vllm.csv",       # the same shapes
    ("h200", "qwen2.5-32b"): "aic_h200_qwen2.5-32b_vllm.csv",
    ("rtx4090", "llama3-8b"): "lss_rtx4090_llama3.1-8b_vllm.csv",
}

_FOLDER, _VARIABLE = "latency", "TOKENFLOW_DATA"


def tables_folder(data: str | None) -> Path:
    """Where the tables lie; BadInput where they do not."""
    root = os.environ.get(_VARIABLE) if data is None else data
    if not root:
        raise BadInput("--data", "(not given)", f"and {_VARIABLE} is not set: the published tables are not part of the package")
    folder = Path(root) / _FOLDER
    if not folder.is_dir():
        raise BadInput("--data" if data is not None else _VARIABLE, root, f"holds no folder {_FOLDER}")
    return folder


def refit(hardware: str, model: str, tables: Path) -> Fit:
    """The fit behind the step times of a built-in profile, on rows whose KV its GPU holds."""
    return fit_steps(feasible(read_steps(tables / TABLES[hardware, model]), hardware, model))


def remade(hardware: str, tables: Path) -> str:
    """A built-in profile as its file should read."""
    content: dict[str, Any] = json.loads(PROFILES.joinpath(f"{hardware}.json").read_bytes())
    for model, times in content["models"].items():
        if (hardware, model) in TABLES:
            content["models"][model] = step_times(refit(hardware, model, tables), times)
        elif hardware == a6000.NAME:
            content["models"][model] |= a6000.step_times(tables)
    return as_json(content)


def write_all(output: str, data: str | None = None) -> list[str]:
    """Every profile into a new folder; what was done, a line each."""
    tables = tables_folder(data)
    done = []
    with Draft(Path(output), "remake") as draft:
        for hardware in list_hardware():
            text = remade(hardware, tables)
            draft.write(f"{hardware}.json", text)
            same = text.encode() == PROFILES.joinpath(f"{hardware}.json").read_bytes()
            statuses = ", ".join(f"{model} {times['status'].split(':')[0]}" for model, times in json.loads(text)["models"].items())
            done.append(f"{hardware}.json: {'as shipped' if same else 'differs from the one shipped'}; {statuses}")
        folder = draft.publish()
    return [*done, str(folder)]
