"""What each policy did to readers and to the engine, measured and predicted, in one row of panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sim.plot_style import Drawing, as_png, own_look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .comparison import Comparison, Pair

#: key of run.json, what the panel is called, by how much it is multiplied
_PANELS = (("p99_ttft_ms", "P99 TTFT, s", 1e-3), ("effective_throughput", "effective tokens/s", 1.0),
           ("mean_rebuffer_s", "rebuffering mean, s", 1.0), ("p99_rebuffer_s", "rebuffering P99, s", 1.0),
           ("output_throughput", "output tokens/s", 1.0))
_WIDTH_IN, _ROW_IN, _DPI = 8.0, 0.42, 160
_MEDIAN, _RUN, _PREDICTED = "#D55E00", "#D55E00", "#0072B2"


def overview(found: Comparison) -> Drawing:
    """Bars are medians of the measured runs, rings the runs, crosses what was predicted."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    measured = "measured, emulated link" if "emulated link" in found.status else "measured"
    with own_look():
        figure = Figure(figsize=(_WIDTH_IN, _ROW_IN * len(found.pairs) + 0.95), dpi=_DPI)
        axes = figure.subplots(1, len(_PANELS), sharey=True)
        for each, (key, title, scale) in zip(axes, _PANELS):
            _panel(each, found.pairs, key, scale)
            each.set_xlabel(title)
        axes[0].set_yticks(range(len(found.pairs)), [pair.label for pair in found.pairs], parse_math=False)
        axes[0].set_ylim(len(found.pairs) - 0.5, -0.5)
        figure.legend([Patch(facecolor="none", edgecolor=_MEDIAN, hatch="////"),
                       Line2D([], [], linestyle="", marker="o", markerfacecolor="none", color=_RUN),
                       Line2D([], [], linestyle="", marker="x", markeredgewidth=2, color=_PREDICTED)],
                      [f"{measured}, median", "each run", "predicted"], loc="outside upper center", ncols=3, frameon=False)
        png = as_png(figure)
    return Drawing("overview", "At a glance", f"Bars: {measured}, medians. Rings: each run. Crosses: predicted.", png)


def _panel(axes: Axes, pairs: Sequence[Pair], key: str, scale: float) -> None:
    for at, pair in enumerate(pairs):
        runs = [scale * value for run in pair.measured if (value := run.facts.get(key)) is not None]
        if runs:
            axes.barh(at, float(np.median(runs)), height=0.62, facecolor="none", edgecolor=_MEDIAN, hatch="////", linewidth=0.8)
            axes.plot(runs, [at] * len(runs), linestyle="", marker="o", markersize=4, markerfacecolor="none", color=_RUN,
                      clip_on=False, zorder=3)
        if (value := pair.simulated.facts.get(key)) is not None:
            axes.plot([scale * value], [at], linestyle="", marker="x", markersize=6, markeredgewidth=1.8, color=_PREDICTED,
                      clip_on=False, zorder=4)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(axis="y", length=0)
