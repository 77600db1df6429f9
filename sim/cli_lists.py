"""`tokenflow list`: what policies, hardware profiles, models and workloads there are."""

from __future__ import annotations

import re
from collections.abc import Callable

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from policies import POLICIES
from traces import BadInput

from . import cli_workloads
from .cli_tables import plain_console
from .hardware import fits, list_hardware, list_models, load_hardware, load_model, step_times
from .policy_choice import arguments_of
from .policy_texts import about


def show(what: str) -> None:
    """Print the table of `policies`, `hardware`, `models` or `workloads`."""
    tables: dict[str, Callable[[], RenderableType]] = {
        "policies": _policies, "hardware": _hardware, "models": _models, "workloads": cli_workloads.tables}
    if what not in tables:
        raise BadInput("list", repr(what), f"must be one of {', '.join(tables)}")
    plain_console().print(tables[what]())


def _table(*titles: str, note: str | None = None) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=note, caption_justify="left", caption_style="")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _policies() -> Table:
    table = _table("policy", "what it is", "arguments")
    for name, make in POLICIES.items():
        own = arguments_of(make)
        if isinstance(make, type):
            arguments = ", ".join(map(str, own))
        else:       # a variant of a class
            kind = type(make())
            plain = {argument.name: argument.default for argument in arguments_of(kind)}
            changed = ", ".join(str(argument) for argument in own if argument.default != plain[argument.name])
            arguments = f"of {kind.__name__}, with {changed}"
        table.add_row(name, Text(about(make)), Text(arguments))
    return table


def _hardware() -> Table:
    table = _table("hardware", "GPU", "memory", "step times of", "links", note=(
        "Any other model that fits has those of the nearest of these, scaled: estimated (see tokenflow list models)"))
    table.columns[3].no_wrap = True
    for name in list_hardware():
        profile = load_hardware(name)
        models = "\n".join(f"{model} ({_first_clause(times.status)})" for model, times in profile.models.items())
        link = f"{profile.link.h2d_bytes_per_s / 1e9:.1f} GB/s; {profile.link.status.split(':')[0]}" if profile.link else "absent"
        table.add_row(name, profile.gpu.name.removeprefix("NVIDIA "), f"{profile.gpu.memory_bytes / 2**30:.0f} GiB", models, link)
    return table


def _models() -> Table:
    table = _table("model", "parameters", "weights", "KV per token", "step times", note=(
        "Any other: --model CONFIG.json, a Hugging Face config, with scaled step times: estimated"))
    for name in list_models():
        model = load_model(name)
        table.add_row(name, f"{model.parameters / 1e9:.1f} G", f"{model.weight_bytes / 1e9:.1f} GB",
                      f"{model.kv_token_bytes:,} bytes", _step_times_on(name))
    return table


def _step_times_on(model: str) -> str:
    """The hardware by how good the step times there are, a line each."""
    found: dict[str, list[str]] = {}
    for name in list_hardware():
        profile = load_hardware(name)
        status = _first_clause(step_times(profile, model)[1].status) if fits(profile, model) else "too large"
        found.setdefault(status, []).append(name)
    order = sorted(found, key=lambda status: (status != "fitted", status))
    return "\n".join(f"{status}: {', '.join(found[status])}" for status in order)


def _first_clause(status: str) -> str:
    return re.split(r"[:(]", status)[0].strip()
