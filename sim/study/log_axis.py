"""A logarithmic axis whose ticks read as plain numbers."""

from __future__ import annotations

from math import floor, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def log_axis(axes: Axes, which: str) -> None:
    """`which`: x or y."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    axis.set_minor_formatter(lambda value, _: f"{value:,.6g}" if round(value / 10 ** floor(log10(value))) in (2, 3, 5) else "")
