"""Results as one HTML file: table, figures, and how far to trust them. It needs no network and no scripts."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from html import escape

from .cli_tables import Summary, header, heading, pages, sections
from .plots import Drawing
from .policy_texts import about_result
from .report_html import HINT, document, figures, scrolling, terms
from .report_terms import terms_of
from .result import Result
from .saving import version_of
from .winner import verdict

_PACKAGES = ("tokenflow-lab", "simpy", "numpy", "matplotlib")

_WIDTH = 115        # of a table, in characters: what a desktop shows at once, and a sheet of paper holds

# what holds of every report
_CAVEATS = (
    "Everything here is simulated: one GPU, one model, one engine. Nothing was measured on a GPU for this report.",
    "Never judge by effective tokens/s alone: it does not punish stalls, and merely generating slowly raises it. Look at TTFT and "
    "rebuffering beside it.",
    "One workload and one seed are one sample: try other seeds, loads and reading rates before you trust a difference.",
)


def page(results: Mapping[str, Result], drawings: Sequence[Drawing], commands: Sequence[str]) -> str:
    """The report on results by label; ratios are to the first. `commands`: what gives them again, on a command line."""
    first = next(iter(results.values()))
    title = f"{len(results)} policies on {len(first.trace):,} requests" if len(results) > 1 else f"{first.label}"
    versions = ", ".join(f"{name} {version}" for name in _PACKAGES if (version := version_of(name)))
    seed = first.summary.get("seed")
    found = verdict({label: result.summary for label, result in results.items()})
    return document(f"TokenFlow Lab: {', '.join(results)}", [
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{_flags(line)}</p>" for line in heading(first)),
        "<h2>Policies</h2>" if len(results) > 1 else "<h2>Policy</h2>",
        terms([(label, about_result(label, result.policy).replace("`", "")) for label, result in results.items()]),
        "<h2>Results</h2>",
        HINT,
        *(_table({label: result.summary for label, result in results.items() if label in shown})
          for shown in pages(list(results), _WIDTH)),
        *(['<p class="soft">x0.63: the ratio to the first policy.</p>'] if len(results) > 1 else []),
        *([] if found is None else [f"<p>{escape(line)}</p>" for line in str(found).split("\n")]),
        "<h2>What the rows say</h2>",
        terms([(term.name, term.means) for term in terms_of(_titles(results))]),
        *figures(drawings),
        "<h2>How far to trust this</h2>",
        "<ul>",
        *(f"<li>{escape(caveat)}</li>" for caveat in _CAVEATS),
        "</ul>",
        *(["<h2>Run it again</h2>", *(f"<pre>{_flags(command)}</pre>" for command in commands)] if commands else []),
        f'<p class="soft">{escape(f"seed {seed}; " if seed is not None else "")}{escape(versions)}, '
        f"Python {escape(platform.python_version())}</p>",
    ])


def _titles(results: Mapping[str, Result]) -> list[str]:
    """Of all rows that the tables have."""
    return [title for section in sections({label: result.summary for label, result in results.items()}) for title, _ in section]


def _flags(command: str) -> str:
    """The text, whose lines are broken between flags: each stays with its value."""
    words, *flags = re.split(r" (?=--)", command)
    return " ".join([escape(words), *(f'<span class="flag">{escape(flag)}</span>' for flag in flags)])


def _table(summaries: Mapping[str, Summary]) -> str:
    labels = "".join(f'<th scope="col">{_broken(label)}</th>' for label in summaries)
    parts = []
    for section in sections(summaries):
        rows = []
        for title, cells in section:
            kind = ' class="part"' if title.startswith(" ") else ""
            rows.append(f'<tr><th scope="row"{kind}>{escape(title.strip())}</th>{"".join(map(_cell, cells))}</tr>')
        parts.append("\n".join(rows))
    return scrolling(f"<td></td>{labels}", parts)


def _cell(cells: Sequence[str]) -> str:
    """A value, and beside it the ratio; an empty ratio keeps its place, so that values stand below each other."""
    value, *ratio = cells
    return f"<td>{escape(value)}{''.join(f' <small>{escape(text)}</small>' for text in ratio)}</td>"


def _broken(label: str) -> str:
    return "<br>".join(escape(line) for line in header(label).split("\n"))
