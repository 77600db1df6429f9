"""How results look in a notebook: as a table, as pandas, as pictures. pandas and matplotlib wait until they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from traces import BadInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from pandas import DataFrame

    from .result import Result

    AxesArray = NDArray[np.object_]


class Displayed(ABC):
    """One result, or several side by side."""

    @abstractmethod
    def _by_label(self) -> Mapping[str, Result]:
        """Each with its name in tables."""

    @abstractmethod
    def to_pandas(self) -> DataFrame:
        """Its rows as a table."""

    def _repr_html_(self) -> str:
        from .display_table import page
        return page(self._by_label())

    def plot_ttft(self, ax: Axes | None = None) -> Axes:
        """Share of requests that had their first token after so long; on `ax`, else on a new figure."""
        from . import display_plots, plots
        return display_plots.shown(plots.ttft_cdf, self._by_label(), ax)

    def plot_rebuffering(self, ax: Axes | None = None) -> Axes:
        """Share of readers whose buffer was empty for so long in all; on `ax`, else on a new figure."""
        from . import display_plots, plots
        return display_plots.shown(plots.rebuffer_cdf, self._by_label(), ax)

    def plot_tokens(self, ids: int | Sequence[int] | None = None) -> AxesArray:
        """Tokens generated and read of these requests (rows of the trace; else one in the middle and the last), on a new figure.

        Axes of shape (policies, requests).
        """
        from . import display_plots, plots
        results = self._by_label()
        chosen = plots.chosen_requests(results) if ids is None else np.atleast_1d(ids).tolist()
        if not chosen:
            raise BadInput("requests", str(chosen), "name at least one" if ids is not None else "nobody reads any of them")
        for id in chosen:
            next(iter(results.values())).token_times_s(id)      # says whether there is such a request
        return display_plots.shown_figure(plots.tokens, results, chosen).reshape(len(results), len(chosen))

    def plot_timeline(self) -> AxesArray:
        """Requests queued, on the GPU and away over time, a panel each, on a new figure. Needs `simulate(..., timeline=True)`."""
        from . import display_plots, plots
        results = self._by_label()
        for label, result in results.items():
            plots.check_timeline(label, result)
        return display_plots.shown_figure(plots.requests_over_time, results)


def number(summary: Mapping[str, Any], key: str, scale: float = 1.0) -> str:
    value = summary[key]
    return "-" if value is None else f"{value * scale:,.2f}"
