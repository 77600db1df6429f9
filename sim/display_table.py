"""Results as HTML in a notebook, whose style rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from .cli_tables import header, heading, sections
from .result import Result
from .winner import verdict


def page(results: Mapping[str, Result]) -> str:
    """What `tokenflow compare` prints, as one table. Ratios are to the first.

    Of a single result two tables stand side by side: what readers went through, and what the engine did.
    """
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
