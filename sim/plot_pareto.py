"""Waiting against what it costs: P99 TTFT beside effective tokens/s and beside mean rebuffering, a marker per policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .outcome import Outcome
from .plot_style import legend, new_figure, seconds_on_log, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: what stands against P99 TTFT: key of the summary, words on the axis, whether more is better
AGAINST = (("effective_throughput", "effective tokens/s", True), ("mean_rebuffer_s", "mean rebuffering, s", False))
TTFT_KEY = "p99_ttft_ms"
_LEAST_TOP = 0.1        # of the y axis: less is no difference
_TICKS = 4              # of a narrow x axis, at most: more would run into each other


@dataclass(frozen=True)
class Mark:
    """One policy, or one combination; `label` says which look it has."""

    label: str
    x: float            #: P99 TTFT, s
    y: float
    dx: float = 0.0     #: half widths of their intervals
    dy: float = 0.0
    note: str = ""      #: beside the marker


def front(marks: Sequence[Mark], more_is_better: bool) -> list[Mark]:
    """Those that no other beats in both, by x."""
    best: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: (mark.x, -mark.y if more_is_better else mark.y)):
        if not best or (mark.y > best[-1].y if more_is_better else mark.y < best[-1].y):
            best.append(mark)
    return best


def pareto(axes: Axes, marks: Sequence[Mark], labels: Sequence[str], more_is_better: bool) -> None:
    """Marks with their intervals, the looks of the labels' places; the front dotted."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
    looks = styles(labels)
    best = front(marks, more_is_better)
    axes.plot([mark.x for mark in best], [mark.y for mark in best], color="#777777", linestyle=":", linewidth=1.0, zorder=1.5,
              drawstyle="steps-post")
    for mark in marks:
        look = looks[mark.label]
        axes.errorbar([mark.x], [mark.y], xerr=_bar(mark.dx, mark.x), yerr=_bar(mark.dy, None), color=look["color"],
                      marker=look["marker"], markersize=6, elinewidth=1.0, capsize=2.0, linestyle="none", label=mark.label)
        if mark.note:
            axes.annotate(mark.note, (mark.x, mark.y), xytext=(4, 3), textcoords="offset points", fontsize=7)
    seconds_on_log(axes)
    axes.margins(x=0.12, y=0.15)
    axes.autoscale()
    least, most = axes.get_xlim()
    if most > 10 * least:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if most > 100 * least else (1.0, 3.0)))
    else:       # fewer than two of a decade's would be in sight, and then LogLocator marks far too many
        axes.xaxis.set_major_locator(MaxNLocator(_TICKS, steps=(1, 2, 5, 10)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    top = max(axes.get_ylim()[1], _LEAST_TOP)
    axes.set_ylim(-0.07 * top, top)         # of a marker at 0 half would be cut off


def _bar(half: float, least: float | None) -> list[list[float]] | None:
    """Both ways; on a log scale it must not reach 0."""
    if not half > 0:
        return None
    return [[half if least is None else min(half, 0.9 * least)], [half]]


def pareto_figure(results: Mapping[str, Outcome]) -> Figure | None:
    """None where there is nothing to hold against each other."""
    told = {label: result.summary for label, result in results.items()}
    panels = [[Mark(label, summary[TTFT_KEY] * 1e-3, summary[key]) for label, summary in told.items()
               if None not in (summary[TTFT_KEY], summary[key])] for key, _, _ in AGAINST]
    if min(map(len, panels)) < 2:
        return None
    figure = new_figure(4.6, results)
    axes = figure.subplots(len(AGAINST), 1, sharex=True)
    for each, marks, (_, words, more) in zip(axes, panels, AGAINST):
        pareto(each, marks, list(results), more)
        name_axes(each, words, more)
    axes[0].set_xlabel("")
    return legend(figure, results, linestyle="none", markersize=6)


def name_axes(axes: Axes, words: str, more_is_better: bool, short: bool = False) -> None:
    log = " (log scale)" if axes.get_xscale() == "log" else ""
    axes.set_xlabel(f"P99 TTFT, s{log}" if short else f"P99 time to first token, s{log}; less is better")
    axes.set_ylabel(words if short else f"{words}\n({'more' if more_is_better else 'less'} is better)")
