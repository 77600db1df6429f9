"""`tokenflow list`: what policies, hardware profiles, models and workloads there are."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from policies import POLICIES
from traces import BadInput

from . import cli_workloads
from .cli_tables import plain_console
from .hardware import list_hardware, list_models, load_hardware, load_model
from .policy_choice import arguments_of


def show(what: str) -> None:
    """Print the table of `policies`, `hardware`, `models` or `workloads`."""
    tables: dict[str, Callable[[], RenderableType]] = {
        "policies": _policies, "hardware": _hardware, "models": _models, "workloads": cli_workloads.tables}
    if what not in tables:
        raise BadInput("list", repr(what), f"must be one of {', '.join(tables)}")
    plain_console().print(tables[what]())


def _table(*titles: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _policies() -> Table:
    table = _table("policy", "what it is", "arguments")
    for name, make in POLICIES.items():
        own = arguments_of(make)
        if isinstance(make, type):
            about, arguments = inspect.getdoc(sys.modules[make.__module__]), ", ".join(map(str, own))
        else:       # a variant of a class
            kind = type(make())
            plain = {argument.name: argument.default for argument in arguments_of(kind)}
            changed = ", ".join(str(argument) for argument in own if argument.default != plain[argument.name])
            about, arguments = inspect.getdoc(make), f"of {kind.__name__}, with {changed}"
        table.add_row(name, Text((about or "").split("\n\n")[0].replace("\n", " ")), Text(arguments))
    return table


def _hardware() -> Table:
    table = _table("hardware", "GPU", "memory", "models", "step times", "links")
    for name in list_hardware():
        profile = load_hardware(name)
        status = "; ".join(sorted({times.status for times in profile.models.values()}))
        link = f"{profile.link.h2d_bytes_per_s / 1e9:.1f} GB/s; {profile.link.status.split(':')[0]}"
        memory = f"{profile.gpu.memory_bytes / 2**30:.0f} GiB"
        table.add_row(name, profile.gpu.name, memory, ", ".join(profile.models), status, link)
    return table


def _models() -> Table:
    table = _table("model", "parameters", "weights", "KV per token", "step times on")
    for name in list_models():
        model = load_model(name)
        on = ", ".join(hardware for hardware in list_hardware() if name in load_hardware(hardware).models)
        table.add_row(name, f"{model.parameters / 1e9:.1f} G", f"{model.weight_bytes / 1e9:.1f} GB",
                      f"{model.kv_token_bytes:,} bytes", on or "none yet")
    return table
