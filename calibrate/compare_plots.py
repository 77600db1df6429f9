"""Predicted and measured side by side, in pictures: a column of panels per figure, a panel per policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.api import Floats
from sim.plot_style import Drawing, as_png, own_look
from sim.saved_runs import Saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .comparison import Comparison

_WIDTH_IN, _PANEL_IN, _DPI = 5.0, 1.9, 200
_PREDICTED: dict[str, Any] = {"color": "#0072B2", "linestyle": "--", "linewidth": 1.6, "zorder": 3}
_MEASURED: dict[str, Any] = {"color": "#D55E00", "linestyle": "-", "linewidth": 1.2}

Line = tuple[Floats, Floats]


def draw(found: Comparison) -> list[Drawing]:
    """Every figure that all policies have something for."""
    with own_look():
        made = [(name, title, caption, _figure(found, of, label, across)) for name, title, caption, of, label, across in _FIGURES]
    return [Drawing(name, title, caption, png) for name, title, caption, png in made if png is not None]


def _figure(found: Comparison, of: Callable[[Saved], Line | None], y_label: str, x_label: str) -> bytes | None:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    told = [(pair, of(pair.simulated), [line for run in pair.measured if (line := of(run)) is not None]) for pair in found.pairs]
    panels = [(pair, mine, theirs) for pair, mine, theirs in told if mine is not None and theirs]
    if not panels:
        return None
    figure = Figure(figsize=(_WIDTH_IN, _PANEL_IN * len(panels) + 0.6), dpi=_DPI)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    right = max(float(x[-1]) for _, mine, theirs in panels for x, _ in (mine, *theirs)) or 1.0
    for each, (pair, mine, theirs) in zip(axes, panels):
        each.set_title(pair.label, loc="left", fontweight="bold", parse_math=False)
        for line in theirs:
            _line(each, line, right, _MEASURED)
        _line(each, mine, right, _PREDICTED)
        each.set_ylabel(y_label)
    for each in axes:
        each.set_ylim(bottom=0)
        each.set_xlim(0, 1.02 * right)
    axes[-1].set_xlabel(x_label)
    handles = [Line2D([], [], **_PREDICTED), Line2D([], [], **_MEASURED)]
    measured = "measured, emulated link" if "emulated link" in found.status else "measured"
    figure.legend(handles, ["predicted", measured], loc="outside upper center", ncols=2, frameon=False)
    return as_png(figure)


def _line(axes: Axes, line: Line, right: float, look: dict[str, Any]) -> None:
    """In steps; what has come to its end stays there."""
    x, y = line
    axes.plot(np.append(x, right), np.append(y, y[-1]), drawstyle="steps-post", clip_on=False, **look)


def _cdf(column: str) -> Callable[[Saved], Line | None]:
    def of(run: Saved) -> Line | None:
        values = run.column(column)[run.completed]
        values = np.sort(values[~np.isnan(values)])
        return (np.append(0.0, values), 100 * np.arange(len(values) + 1) / len(values)) if len(values) else None
    return of


def _first_tokens(run: Saved) -> Line | None:
    return _counted(run.column("first_token_s"))


def _tokens(run: Saved) -> Line | None:
    times = run.all_token_times_s()
    return None if times is None else _counted(times)


def _counted(times: Floats) -> Line | None:
    """How many there are by then."""
    times = np.sort(times[~np.isnan(times)])
    return (np.append(0.0, times), np.arange(len(times) + 1.0)) if len(times) else None


def _of_timeline(*columns: str) -> Callable[[Saved], Line | None]:
    def of(run: Saved) -> Line | None:
        if run.timeline is None:
            return None
        told = run.timeline.columns()
        count = np.sum([told[name] for name in columns], axis=0)
        return (np.append(told["start_s"], told["end_s"][-1:]), np.append(count, 0.0)) if len(count) else None
    return of


_TIME = "time, s"
_FIGURES: tuple[tuple[str, str, str, Callable[[Saved], Line | None], str, str], ...] = (
    ("ttft", "Time to first token", "The share of completed requests that had their first token within so many seconds.",
     _cdf("ttft_s"), "requests, %", "time to first token, s"),
    ("tpot", "Time per output token", "The share of completed requests whose tokens came so fast, on average.",
     _cdf("tpot_s"), "requests, %", "time per output token, s"),
    ("rebuffering", "Rebuffering", "The share of readers who sat before an empty buffer for no longer than that.",
     _cdf("rebuffer_s"), "readers, %", "time stalled, s"),
    ("first_tokens", "First tokens over time", "How many requests have had their first token by then.",
     _first_tokens, "requests", _TIME),
    ("tokens", "Tokens over time", "How many tokens all requests together have got by then.", _tokens, "tokens", _TIME),
    ("queued", "Queued", "Requests without any KV that do not compute: newcomers, and who is to be computed anew.",
     _of_timeline("queued"), "requests", _TIME),
    ("running", "Running", "Requests in the step under way.", _of_timeline("running"), "requests", _TIME),
    ("away", "Away", "Requests whose KV is on the host or on its way.", _of_timeline("on_host", "loading", "evicting"), "requests",
     _TIME),
)
