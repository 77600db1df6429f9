"""How pictures look: colours, lines and markers of policies, legends, and matplotlib as we set it up for a while."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from traces import BadInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers as well, but for the yellow
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#000000", "#808080")
_LINES, _MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D", "v", "P", "X")

WIDTH_IN, _DPI = 5.0, 200      # narrow: letters stay readable when a phone shows the whole width
LOOK = {"font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8, "xtick.labelsize": 8, "ytick.labelsize": 8,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.6,
        "axes.axisbelow": True, "lines.linewidth": 1.5, "lines.markersize": 4, "hatch.linewidth": 0.5,
        "figure.constrained_layout.use": True}

NewFigure = Callable[..., "Figure"]     #: makes an empty one, of `figsize`


@dataclass(frozen=True)
class Drawing:
    """A finished figure."""

    name: str       #: of its file
    title: str
    caption: str    #: one sentence on how to read it
    png: bytes


def styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, line and marker of each policy; no two of the first 28 share line and marker.

    Each line is narrower than the one before it, so that both are seen where one lies on the other.
    """
    def nth(looks: tuple[str, ...], i: int) -> str:
        return looks[i % len(looks)]
    return {label: {"color": nth(COLOURS, i), "linestyle": nth(_LINES, i), "marker": nth(_MARKERS, i),
                    "linewidth": max(3.2 * 0.82**i, 0.8)}
            for i, label in enumerate(labels)}


def new_figure(height_in: float, labels: Iterable[str], new: NewFigure | None = None, width_in: float = WIDTH_IN) -> Figure:
    """With room above for a legend of these labels; made by `new`, whose dots per inch rule then."""
    from matplotlib.figure import Figure
    labels = list(labels)
    rows = sum(wrapped(label).count("\n") + 1 for label in labels) / _columns(labels)
    size = width_in, height_in + 0.15 * rows
    return Figure(size, dpi=_DPI) if new is None else new(figsize=size)


def legend(figure: Figure, labels: Iterable[str], **look: Any) -> Figure:
    """Above everything, outside the data. `look`: of every handle, in place of the label's own."""
    from matplotlib.lines import Line2D
    labels = list(labels)
    handles = [Line2D([], [], **each | look) for each in styles(labels).values()]
    made = figure.legend(handles, [wrapped(label) for label in labels], loc="outside upper center", ncols=_columns(labels),
                         frameon=False, handlelength=3.5)
    for text in made.get_texts():
        text.set_parse_math(False)
    return figure


def _columns(labels: list[str]) -> int:
    longest = max(len(line) for label in labels for line in wrapped(label).split("\n"))
    return min(len(labels), 3 if longest <= 16 else 2 if longest <= 30 else 1)


def wrapped(label: str, width: int = 40) -> str:
    """In lines, which end with an argument where they can."""
    lines = [""]
    for part in re.split(r"(?<=[\[, ])", label):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        head, *tail = wrap(lines[-1] + part, width, drop_whitespace=False) or [""]
        lines[-1:] = [head, *tail]
    return "\n".join(lines) or " "


def seconds_on_log(axes: Axes) -> None:
    """The x axis, whose ticks are plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def thousands(value: float, _: int) -> str:
    return f"{value:,.0f}"


def as_png(figure: Figure, dpi: float | str = "figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


@contextmanager
def own_look() -> Iterator[None]:
    """Matplotlib's defaults and ours, for a while; what it says of caches and fonts is for nobody here."""
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        try:
            import matplotlib
        except ValueError as error:
            raise BadInput("MPLBACKEND", os.environ.get("MPLBACKEND", ""), "matplotlib does not know it") from error
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(LOOK)
            yield
    finally:
        log.setLevel(level)
