"""How results look in a notebook: as a table, as pandas, as pictures. pandas and matplotlib wait until they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from traces import BadInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from pandas import DataFrame

    from .result import Result

    AxesArray = NDArray[np.object_]


class Displayed:
    """One result, or several side by side."""

    def _by_label(self) -> Mapping[str, Result]:
        raise NotImplementedError

    def to_pandas(self) -> DataFrame:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return page(self._by_label())

    def plot_ttft(self, ax: Axes | None = None) -> Axes:
        """Share of requests that had their first token after so long; on `ax`, else on a new figure."""
        from . import plots
        return plots.shown(plots.ttft_cdf, self._by_label(), ax)

    def plot_rebuffering(self, ax: Axes | None = None) -> Axes:
        """Share of readers whose buffer was empty for so long in all; on `ax`, else on a new figure."""
        from . import plots
        return plots.shown(plots.rebuffer_cdf, self._by_label(), ax)

    def plot_tokens(self, ids: int | Sequence[int] | None = None) -> AxesArray:
        """Tokens generated and read of these requests (rows of the trace; else one in the middle and the last), on a new figure.

        Axes of shape (policies, requests).
        """
        from . import plots
        results = self._by_label()
        chosen = plots.chosen_requests(results) if ids is None else np.atleast_1d(ids).tolist()
        if not chosen:
            raise BadInput("requests", str(chosen), "name at least one" if ids is not None else "nobody reads any of them")
        for id in chosen:
            next(iter(results.values())).token_times_s(id)      # says whether there is such a request
        return plots.shown_figure(plots.tokens, results, chosen).reshape(len(results), len(chosen))

    def plot_timeline(self) -> AxesArray:
        """Requests queued, on the GPU and away over time, a panel each, on a new figure. Needs `simulate(..., timeline=True)`."""
        from . import plots
        results = self._by_label()
        for label, result in results.items():
            plots.check_timeline(label, result)
        return plots.shown_figure(plots.requests_over_time, results)


def page(results: Mapping[str, Result]) -> str:
    """Results as HTML for a notebook, whose style rules: what `tokenflow compare` prints, as one table. Ratios are to the first.

    Of a single result two tables stand side by side: what readers went through, and what the engine did.
    """
    from .cli_tables import heading, sections
    from .winner import verdict
    summaries = {label: result.summary for label, result in results.items()}
    parts, (readers, *engine) = heading(next(iter(results.values()))), sections(summaries)
    head = "<br>".join(map(escape, parts))
    if len(results) > 1:
        body = _table(_head(results), [readers, *engine])
        found = verdict(summaries)
        below = "" if found is None else _paragraph("<br>".join(map(escape, str(found).split("\n"))))
        return _paragraph(head) + _scrolling(body) + below
    tables = [_table(_head(results), [readers]), _table(_head(results), engine)]
    return _paragraph(head) + _scrolling("".join(f'<div style="margin-right: 2em">{table}</div>' for table in tables))


def _head(results: Mapping[str, Result]) -> str:
    from .cli_tables import header
    labels = ("<br>".join(escape(line) for line in header(label).split("\n")) for label in results)
    return "<td></td>" + "".join(f"<th>{label}</th>" + ("<td></td>" if place else "") for place, label in enumerate(labels))


def _table(head: str, sections: Sequence[Sequence[tuple[str, Sequence[Sequence[str]]]]]) -> str:
    rows = [f'<tr align="right" valign="bottom">{head}</tr>']
    for title, cells in (row for section in sections for row in section):
        name = "&emsp;" * title.startswith(" ") + escape(title.strip())
        values = "".join(f"<td>{escape(value)}</td>" + "".join(f"<td><small>{escape(text)}</small></td>" for text in ratio)
                         for value, *ratio in cells)
        rows.append(f'<tr align="right"><td style="text-align: left">{name}</td>{values}</tr>')
    return "<table>" + "\n".join(rows) + "</table>"


def _paragraph(html: str) -> str:
    return f"<p>{html}</p>\n"


def _scrolling(html: str) -> str:
    """Where the screen is narrow the table moves, not the page; what fits stands side by side."""
    return f'<div style="display: flex; flex-wrap: wrap; overflow-x: auto">{html}</div>\n'


def number(summary: Mapping[str, Any], key: str, scale: float = 1.0) -> str:
    value = summary[key]
    return "-" if value is None else f"{value * scale:,.2f}"
