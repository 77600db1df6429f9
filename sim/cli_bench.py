"""`tokenflow bench`: how fast the simulator is on this machine."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from .bench import CASES, measure
from .cli_tables import plain_console
from .saving import as_json

#: the key, its title, its scale and form
_COLUMNS = (("requests", "asks", 1, "{:,.0f}"), ("generated_tokens", "M tokens", 1e-6, "{:.2f}"),
            ("cpu_s", "CPU s", 1, "{:.3f}"), ("tokens_per_cpu_s", "M/CPU s", 1e-6, "{:.2f}"),
            ("us_per_run", "us/run", 1, "{:.0f}"), ("peak_memory_mb", "MB", 1, "{:.0f}"),
            ("step_by_step_ratio", "steps", 1, "x{:.1f}"))


def show(names: list[str], json: bool, profile: bool) -> None:
    """Measure the named cases, or all, and print them."""
    measured = {name: measure(name, profile) for name in names or CASES}
    if json:
        print(as_json(measured), end="")
        return
    plain_console().print(_table(measured))


def _table(measured: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("case", no_wrap=True)
    for _, title, _, _ in _COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    for name, row in measured.items():
        table.add_row(name, *("" if row[key] is None else form.format(row[key] * scale) for key, _, scale, form in _COLUMNS))
    return table
