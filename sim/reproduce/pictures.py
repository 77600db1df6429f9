"""Figures laid out as the paper's: bars by policy and workload, lines over time, areas of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..intervals import Estimate
from ..plot_style import as_png, own_look, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_IN, _DPI, _NOTEBOOK_DPI = 5.0, 160, 100
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++", "oooo", "----", "//..", "xx..")

Groups = Mapping[str, Mapping[str, Estimate | None]]        #: by workload and policy
Line = tuple[Sequence[float | None], Sequence[float | None]]


@dataclass(frozen=True, repr=False)
class Picture:
    """A PNG of this name, drawn when it is asked for."""

    name: str
    caption: str        #: how to read it
    draw: Callable[[], Figure]

    def __repr__(self) -> str:
        return f"<{self.name}: {self.caption}>"

    def _repr_png_(self) -> bytes:
        with own_look():
            return as_png(self.draw(), _NOTEBOOK_DPI)


def bars(panels: Mapping[str, Groups]) -> Figure:
    """A row per metric, a column per workload with a scale of its own, a bar per policy with its 95 % interval.

    Of a single workload two metrics stand side by side.
    """
    labels = list(dict.fromkeys(label for groups in panels.values() for group in groups.values() for label in group))
    cells = [(title, name, group) for title, groups in panels.items() for name, group in groups.items()]
    workloads = list(next(iter(panels.values())))
    columns = len(workloads) if len(workloads) > 1 else min(2, len(panels))
    height = -(-len(cells) // columns)
    figure = _figure(1.25 * height + 0.2 * _rows(labels) + 0.3)
    drawn = figure.subplots(height, columns, squeeze=False)
    looks = styles(labels)
    for axes in drawn.flat[len(cells):]:
        axes.set_visible(False)
    for i, (axes, (title, name, group)) in enumerate(zip(drawn.flat, cells)):
        _bars(axes, labels, group, looks)
        if len(workloads) == 1:
            axes.set_title(title, loc="left")
        else:
            axes.set_title(name if i < columns else "", fontweight="bold")
            axes.set_ylabel(_in_lines(title) if i % columns == 0 else "")
    return _legend(figure, labels, looks, patches=True)


def _bars(axes: Axes, labels: Sequence[str], group: Mapping[str, Estimate | None], looks: Mapping[str, Any]) -> None:
    for i, label in enumerate(labels):
        if (one := group.get(label)) is not None:
            half = None if one.high is None else one.high - one.mean
            axes.bar(i, one.mean, 0.9, yerr=half, ecolor="#333333", error_kw={"linewidth": 0.7}, **_filled(i, looks[label]))
    axes.set_xticks([])
    axes.set_xlim(-0.7, len(labels) - 0.3)
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="y", labelsize=7)
    axes.yaxis.set_major_formatter(_plain)


def lines(panels: Mapping[str, Mapping[str, Line]], x: str) -> Figure:
    """A panel per title, one below the other, a line per label."""
    labels = list(dict.fromkeys(label for told in panels.values() for label in told))
    figure = _figure(1.7 * len(panels) + 0.2 * _rows(labels) + 0.5)
    drawn = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    looks = styles(labels)
    for axes, (title, told) in zip(drawn, panels.items()):
        for label, (at, values) in told.items():
            axes.plot(_floats(at), _floats(values), **looks[label] | {"marker": None})
        axes.set_title(title, loc="left")
        axes.yaxis.set_major_formatter(_plain)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    drawn[-1].set_xlabel(x)
    return _legend(figure, labels, looks)


def sweep(panels: Mapping[str, Mapping[str, Mapping[str, Sequence[float | None]]]], settings: Mapping[str,
                                                                                                      Sequence[str]]) -> Figure:
    """A row per metric, a column per workload, a line per policy over its settings; by metric, workload and policy."""
    labels = list(dict.fromkeys(label for by_row in panels.values() for told in by_row.values() for label in told))
    figure = _figure(1.3 * len(panels) + 0.2 * _rows(labels) + 0.9)
    drawn = figure.subplots(len(panels), len(settings), squeeze=False, sharex="col")
    looks = styles(labels)
    for i, (title, by_row) in enumerate(panels.items()):
        for axes, (name, told) in zip(drawn[i], by_row.items()):
            for label, values in told.items():
                axes.plot(range(len(values)), _floats(values), **looks[label])
            axes.set_title(name if not i else "", fontweight="bold")
            axes.set_xticks(range(len(settings[name])), settings[name], rotation=60, fontsize=7)
            axes.tick_params(axis="y", labelsize=7)
            axes.yaxis.set_major_formatter(_plain)
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        drawn[i][0].set_ylabel(_in_lines(title))
    return _legend(figure, labels, looks)


def streams(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """A row per policy, a panel per request: tokens generated and tokens read since the burst; `kept.streams` has the series."""
    columns = max(len(told) for told in rows.values())
    figure = _figure(1.25 * len(rows) + 0.6)
    drawn = figure.subplots(len(rows), columns, squeeze=False, sharex="col", sharey="col")
    looks = styles(rows)
    for first, panels, (label, told) in zip((True, *(False,) * len(rows)), drawn, rows.items()):
        for axes, one in zip(panels, told):
            axes.plot(_floats(one["generated_s"]), _floats(one["tokens"]), color=looks[label]["color"])
            axes.plot(_floats(one["read_s"]), _floats(one["tokens"]), color="#333333", linestyle="--", linewidth=1.0)
            axes.set_title(f"request {one['id']}" if first else "", loc="right")
        panels[0].set_title(label, loc="left", fontweight="bold")
        panels[0].set_ylabel("tokens")
    for i, axes in enumerate(drawn[-1]):
        axes.set_xlabel("time, s")
        axes.set_xlim(0, 1.02 * max(float(told[i]["read_s"][-1]) for told in rows.values()))
        axes.set_ylim(0, 1.05 * max(float(told[i]["tokens"][-1]) for told in rows.values()))
    from matplotlib.lines import Line2D
    handles = [Line2D([], [], color="black"), Line2D([], [], color="#333333", linestyle="--", linewidth=1.0)]
    figure.legend(handles, ["generated", "read"], loc="outside upper center", ncols=2, frameon=False)
    return figure


def frontier(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, str]]]], x: str, y: str) -> Figure:
    """A panel per workload: points (x, y, what stands beside it), joined by label where there are several."""
    labels = list(dict.fromkeys(label for told in panels.values() for label in told))
    figure = _figure(2.5 * len(panels) + 0.2 * _rows(labels) + 0.3)
    drawn = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    looks = styles(labels)
    for axes, (title, told) in zip(drawn, panels.items()):
        for label, points in told.items():
            axes.plot([point[0] for point in points], [point[1] for point in points], **looks[label])
            for at, value, beside in points:
                axes.annotate(beside, (at, value), xytext=(4, 4), textcoords="offset points", fontsize=7)
        axes.set_title(title, loc="left")
        axes.set_ylabel(y)
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_yscale("symlog", linthresh=1.0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:,.4g}")
        axes.margins(0.12)
        axes.set_ylim(bottom=-0.15)
    drawn[-1].set_xlabel(x)
    return _legend(figure, labels, looks)


def spans(rows: Mapping[str, Sequence[tuple[float, float]]], until_s: float, marks: Sequence[float], title: str) -> Figure:
    """A line per request: when it holds a slot."""
    figure = _figure(0.35 * len(rows) + 1.0)
    axes: Axes = figure.subplots()
    looks = styles(rows)
    for i, (label, held) in enumerate(rows.items()):
        axes.broken_barh([(start, stop - start) for start, stop in held], (len(rows) - i - 1.35, 0.7), color=looks[label]["color"])
    axes.set_yticks([len(rows) - i - 1 for i in range(len(rows))], list(rows))
    for at in marks:
        axes.axvline(at, color="#555555", linewidth=1, linestyle=(0, (2, 2)))
    axes.set_xlim(0, until_s)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("time, s")
    axes.set_title(title, loc="left")
    return figure


def _figure(height_in: float) -> Figure:
    from matplotlib.figure import Figure
    return Figure(figsize=(_WIDTH_IN, height_in), dpi=_DPI)


def _legend(figure: Figure, labels: Sequence[str], looks: Mapping[str, Any], patches: bool = False) -> Figure:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    handles = [Patch(**_filled(i, looks[label])) if patches else Line2D([], [], **looks[label]) for i, label in enumerate(labels)]
    figure.legend(handles, list(labels), loc="outside upper center", ncols=_columns(labels), frameon=False)
    return figure


def _filled(i: int, look: Mapping[str, Any]) -> dict[str, Any]:
    """Of the i-th of several areas, told apart without colour as well."""
    return {"facecolor": look["color"], "edgecolor": "white", "linewidth": 0.0, "hatch": _HATCHES[i % len(_HATCHES)]}


def _plain(value: float, _: float) -> str:
    return f"{value:,.10g}"


def _in_lines(title: str) -> str:
    return title.replace(", ", ",\n") if len(title) > 14 else title


def _columns(labels: Sequence[str]) -> int:
    longest = max(map(len, labels), default=0)
    return 3 if longest <= 16 else 2 if longest <= 32 else 1


def _rows(labels: Sequence[str]) -> int:
    return -(-len(labels) // _columns(labels))


def _floats(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else float(value) for value in values]
