"""A study as pictures, on axes of the caller or new ones. Readable without colour: markers, hatches, line styles."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from traces import BadInput

from ..cli_tables import row_of
from ..plot_style import styles
from ..report_terms import measure_of
from .setup import nearest
from .summary import CI

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

    from .result import StudyResult

MAIN = ("p99_ttft_ms", "mean_rebuffer_s", "stalled_share", "effective_throughput", "output_throughput")

_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo", "--")
_INK = "#333333"


def titled(metric: str) -> tuple[str, float]:
    """What it is called, unit and all, where `tokenflow run` shows it; and the factor to that unit."""
    row = row_of(metric)
    return (metric.replace("_", " "), 1.0) if row is None else (row.title.strip(), row.scale)


def _more_is_better(metric: str) -> bool:
    measure = measure_of(metric)
    return measure is not None and measure.better == "higher"


def pareto(study: StudyResult, x: str, y: str, axes: Axes | None = None) -> Axes:
    """A point per combination, its intervals as bars. Colour and marker tell the first axis apart; of those that differ in nothing
    else, a dashed line joins the points that no other beats in both metrics."""
    own_figure, axes, table = axes is None, _axes(axes), _known(study, x, y)
    group, rest = _first(study, table), _rest(study, table)
    at_x, at_y = _values(table, x)[0], _values(table, y)[0]
    for n, (label, look) in enumerate(styles(dict.fromkeys(group)).items()):
        own = table[[each == label for each in group]]
        (own_x, half_x), (own_y, half_y) = _values(own, x), _values(own, y)
        axes.errorbar(own_x, own_y, xerr=half_x, yerr=half_y, label=label, color=look["color"], marker=look["marker"],
                      linestyle="none", markersize=max(10 - 1.5 * n, 4), markeredgecolor="white", markeredgewidth=0.5, capsize=2,
                      elinewidth=0.8)     # each smaller than the one before, so that both are seen where one lies on the other
    several, joined = len(set(rest)) > 1, False
    for name in dict.fromkeys(rest):
        mine = [i for i, each in enumerate(rest) if each == name]
        front = [mine[i] for i in pareto_front(at_x[mine], at_y[mine], _more_is_better(x), _more_is_better(y))]
        axes.plot(at_x[front], at_y[front], color=_INK, linestyle="--", linewidth=1, zorder=0.5,
                  label="best compromises" if len(front) > 1 and not joined else None)
        joined = joined or len(front) > 1
        if several and front:
            axes.annotate(name, (at_x[front[-1]], at_y[front[-1]]), xytext=(0, 9), textcoords="offset points", ha="center",
                          fontsize=7, parse_math=False, bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5})
    for name, at, axis, scale in ((x, at_x, axes.xaxis, axes.set_xscale), (y, at_y, axes.yaxis, axes.set_yscale)):
        log = _wide(at)
        if log:
            scale("log")
            axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_label_text(_with_direction(name, log))
    axes.margins(0.1)
    _legend(axes, own_figure)
    return axes


def pareto_front(x: Any, y: Any, more_x: bool, more_y: bool) -> list[int]:
    """Which points no other beats in both, in order of x."""
    better_x, better_y = np.asarray(x) * (1 if more_x else -1), np.asarray(y) * (1 if more_y else -1)
    front, best = [], -np.inf
    for i in np.lexsort((-better_y, -better_x)):
        if better_y[i] > best:
            front.append(int(i))
            best = better_y[i]
    return front


def bars_or_lines(study: StudyResult, metric: str, axes: Axes | None = None) -> Axes:
    """Lines over the first axis of numbers, where there is one with three values or more; else bars."""
    own_figure, axes, table = axes is None, _axes(axes), _known(study, metric)
    numbers = [name for name in study.axes if table[name].dtype.kind in "if" and table[name].nunique() > 2]
    if numbers:
        _lines(axes, study, table, numbers[0], metric)
    else:
        _bars(axes, study, table, metric)
    _legend(axes, own_figure)
    return axes


def _lines(axes: Axes, study: StudyResult, table: DataFrame, over: str, metric: str) -> None:
    others = [name for name in study.axes if name != over and table[name].dtype.kind not in "f"]
    group = [" · ".join(str(row[name]) for name in others if row[name] == row[name]) or study.name
             for row in table.to_dict("records")]
    for label, look in styles(dict.fromkeys(group)).items():
        own = table[[each == label for each in group]].sort_values(over)
        mean, half = _values(own, metric)
        axes.errorbar(own[over], mean, yerr=half, label=label, capsize=2, elinewidth=0.8, **look)
    axes.set_xlabel(_of_axis(over))
    axes.set_ylabel(titled(metric)[0])
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))


def _bars(axes: Axes, study: StudyResult, table: DataFrame, metric: str) -> None:
    """Lying, so that names have room: a group per combination of the other axes, in it a bar per value of the first. Where values
    are of different orders of magnitude, marks on a logarithmic axis."""
    group, rest = _first(study, table), _rest(study, table)
    places, looks = {name: i for i, name in enumerate(dict.fromkeys(rest))}, styles(dict.fromkeys(group))
    height, log = 0.84 / len(looks), _wide(_values(table, metric)[0])
    for n, ((label, look), hatch) in enumerate(zip(looks.items(), cycle(_HATCHES))):
        own = [each == label for each in group]
        mean, half = _values(table[own], metric)
        at = [places[name] + (n - (len(looks) - 1) / 2) * height for name, mine in zip(rest, own) if mine]
        if log:
            axes.errorbar(mean, at, xerr=half, label=label, color=look["color"], marker=look["marker"], linestyle="none", capsize=2)
        else:
            axes.barh(at, mean, height * 0.92, xerr=half, label=label, color=look["color"], edgecolor="white", hatch=hatch,
                      error_kw={"elinewidth": 0.9, "capsize": 2, "ecolor": _INK})
    axes.set_yticks(list(places.values()), list(places), parse_math=False)
    axes.invert_yaxis()
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    elif (table[metric] >= 0).all():
        axes.set_xlim(left=0)
    axes.set_xlabel(_with_direction(metric, log))


def _with_direction(metric: str, log: bool) -> str:
    measure = measure_of(metric)
    said = [*(["log scale"] if log else []), *([] if measure is None else [f"{measure.better} is better"])]
    return titled(metric)[0] + (f" ({'; '.join(said)})" if said else "")


def _wide(values: Any) -> bool:
    """Whether they span orders of magnitude."""
    return bool(len(values) and values.min() > 0 and values.max() > 30 * values.min())


def _axes(given: Axes | None) -> Axes:
    if given is not None:
        return given
    from matplotlib import pyplot
    made: Axes = pyplot.subplots(layout="constrained")[1]
    return made


def _known(study: StudyResult, *metrics: str) -> DataFrame:
    """The combinations of which these are known."""
    if not study.metrics:
        raise BadInput("study", str(study.directory), "holds nothing to draw: no run came to its end")
    for metric in metrics:
        if metric not in study.metrics:
            raise BadInput("metric", metric, f"unknown; did you mean '{nearest(metric, tuple(study.metrics))}'?")
    return study.summary.dropna(subset=list(metrics))


def _first(study: StudyResult, table: DataFrame) -> list[str]:
    """What the first axis says of each combination."""
    return [str(each) for each in table[study.axes[0]]] if study.axes else [study.name] * len(table)


def _rest(study: StudyResult, table: DataFrame) -> list[str]:
    """What the other axes say."""
    return [" · ".join(str(row[name]) for name in study.axes[1:] if row[name] == row[name]) for row in table.to_dict("records")]


def _values(table: DataFrame, metric: str) -> tuple[Any, Any]:
    """Means and half widths, in the unit of the axis."""
    scale = titled(metric)[1]
    return table[metric].to_numpy(float) * scale, np.nan_to_num(table[metric + CI].to_numpy(float)) * scale


#: units of flags that are numbers
_UNITS = {"request_rate": "requests per second", "link": "link, GB/s", "kv_tokens": "KV pool, tokens", "num_prompts": "requests",
          "host_kv_tokens": "host KV pool, tokens", "mem_fraction": "share of GPU memory", "consume_rate": "readers, tokens/s",
          "max_concurrency": "requests in flight", "max_num_seqs": "seats", "block_size": "tokens per block",
          "max_num_batched_tokens": "tokens per step", "host_time_ms": "host time per step, ms",
          "believed_step": "believed over true step time", "believed_link": "believed over true link rate", "until": "until, s"}


def _of_axis(name: str) -> str:
    return _UNITS.get(name, name.removeprefix("policy_arg."))


def _legend(axes: Axes, own_figure: bool) -> None:
    """Above the axes in a figure of ours, on them in the caller's."""
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(labels), 4 if max(map(len, labels), default=0) < 18 else 2)
    if own_figure:
        legend = axes.figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False, fontsize="small")
    else:
        legend = axes.legend(handles, labels, fontsize="small")
    for text in legend.get_texts():
        text.set_parse_math(False)
