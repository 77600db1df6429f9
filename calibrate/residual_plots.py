"""Predicted and measured step times as pictures: where the model is off, by what the step did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sim.plot_style import as_png, own_look

from .solver import Floats
from .tables import StepTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOOKS = {"prefill": ("#0072B2", "o"), "decode": ("#D55E00", "s"), "mixed": ("#009E73", "^"), "chunked": ("#CC79A7", "D")}
_OTHER = ("#000000", "v")
_CLIP_PCT = 25.0            # residuals beyond are drawn at the edge


def residual_plots(table: StepTable, predicted_s: Floats, title: str) -> bytes:
    """A PNG of four: predicted over measured, and relative errors by tokens, by context and by batch."""
    with own_look():
        from matplotlib.figure import Figure
        figure = Figure(figsize=(7.0, 6.0), dpi=150)
        axes = figure.subplots(2, 2)
        _against(axes[0, 0], table, predicted_s)
        tokens, kv, pairs, seqs = table.work.T
        attended = kv + pairs / np.maximum(tokens, 1)
        for place, x, label in ((axes[0, 1], tokens, "tokens in the step"), (axes[1, 0], attended, "tokens attended to"),
                                (axes[1, 1], seqs, "requests in the step")):
            _residuals(place, table, x, predicted_s / table.seconds - 1, label)
        axes[0, 0].legend(loc="upper left", frameon=False)
        if np.abs(predicted_s / table.seconds - 1).max() > _CLIP_PCT / 100:
            title += f" (errors beyond {_CLIP_PCT:g} % drawn at the edge)"
        text = figure.suptitle(title, fontsize=10)
        text.set_parse_math(False)
        return as_png(figure)


def _against(axes: Axes, table: StepTable, predicted_s: Floats) -> None:
    measured, predicted = 1e3 * table.seconds, 1e3 * predicted_s
    for phase in dict.fromkeys(table.phase.tolist()):
        rows, (colour, marker) = table.phase == phase, _LOOKS.get(phase, _OTHER)
        axes.plot(measured[rows], predicted[rows], marker, color=colour, markersize=3, alpha=0.7, label=phase)
    ends = [min(measured.min(), predicted.min()), max(measured.max(), predicted.max())]
    axes.plot(ends, ends, color="#555555", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="measured (ms)", ylabel="model (ms)")


def _residuals(axes: Axes, table: StepTable, x: Floats, relative: Floats, label: str) -> None:
    shown = np.clip(100 * relative, -_CLIP_PCT, _CLIP_PCT)
    for phase in dict.fromkeys(table.phase.tolist()):
        rows, (colour, marker) = table.phase == phase, _LOOKS.get(phase, _OTHER)
        axes.plot(x[rows], shown[rows], marker, color=colour, markersize=3, alpha=0.7)
    axes.axhline(0, color="#555555", linewidth=0.8)
    limit = min(_CLIP_PCT, max(5.0, 1.1 * float(np.abs(shown).max())))
    axes.set(xscale="log", xlabel=label, ylabel="model / measured − 1 (%)", ylim=(-1.05 * limit, 1.05 * limit))
