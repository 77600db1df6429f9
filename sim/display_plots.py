"""Plots as pyplot's figures, which notebooks show; the caller's settings rule, but for our look."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .plot_style import LOOK
from .plots import Results, one

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def shown(plot: Callable[[Axes, Results], None], results: Results, axes: Axes | None) -> Axes:
    """On the caller's axes, or on those of a new figure."""
    if axes is None:
        drawn: Axes = shown_figure(one(plot), results)[0]
        return drawn
    plot(axes, results)
    for text in axes.legend().get_texts():
        text.set_parse_math(False)
    return axes


def shown_figure(figure: Callable[..., Figure], results: Results, *more: Any) -> npt.NDArray[np.object_]:
    """All axes of a new figure."""
    import matplotlib
    import matplotlib.pyplot as plt
    plt.draw_if_interactive()       # loads the backend: what it sets, as notebooks' does, must not end with the context
    with matplotlib.rc_context(LOOK):
        return np.array(figure(results, *more, new=plt.figure).axes)
