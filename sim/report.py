"""Results as one HTML file: table, figures, and how far to trust them. It needs no network and no scripts."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .cli_tables import Summary, header, heading, pages, sections
from .outcome import Outcome
from .plot_style import Drawing
from .policy_texts import about_named, about_result
from .report_html import HINT, document, figures, scrolling, terms
from .report_terms import terms_of
from .result import Result
from .saving import version_of
from .winner import verdict

_PACKAGES = ("tokenflow-lab", "simpy", "numpy", "matplotlib")

_WIDTH = 115        # of a table, in characters: what a desktop shows at once, and a sheet of paper holds

SIMULATED = "Everything here is simulated: one GPU, one model, one engine. Nothing was measured on a GPU for this report."

# what holds of every report
CAVEATS = (
    "Never judge by effective tokens/s alone: it does not punish stalls, and merely generating slowly raises it. Look at TTFT and "
    "rebuffering beside it.",
    "One workload and one seed are one sample: try other seeds, loads and reading rates before you trust a difference.",
)


def page(results: Mapping[str, Outcome], drawings: Sequence[Drawing], commands: Sequence[str], *, missing: Sequence[str] = (),
         computed: str = "") -> str:
    """The report on results by label; ratios are to the first.

    `commands`: what gives them again, on a command line; `missing`: what the files do not have, and how to get it;
    `computed`: when, where and with what, where that was not here and now.
    """
    first = next(iter(results.values()))
    requests = len(first.columns()["fate"])
    title = f"{len(results)} policies on {requests:,} requests" if len(results) > 1 else f"{first.label}"
    seed = first.summary.get("seed")
    found = verdict({label: result.summary for label, result in results.items()})
    return document(f"TokenFlow Lab: {', '.join(results)}", [
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{_flags(line)}</p>" for line in heading(first)),
        "<h2>Policies</h2>" if len(results) > 1 else "<h2>Policy</h2>",
        terms([(label, _about(label, result).replace("`", "")) for label, result in results.items()]),
        "<h2>Results</h2>",
        HINT,
        *(_table({label: result.summary for label, result in results.items() if label in shown})
          for shown in pages(list(results), _WIDTH)),
        *(['<p class="soft">x0.63: the ratio to the first policy.</p>'] if len(results) > 1 else []),
        *([] if found is None else [f"<p>{escape(line)}</p>" for line in str(found).split("\n")]),
        "<h2>What the rows say</h2>",
        terms([(term.name, term.means) for term in terms_of(_titles(results))]),
        *figures(drawings),
        *bullets("Not in these files", missing),
        *bullets("How far to trust this", [_measured(results), *CAVEATS]),
        *again(commands),
        f'<p class="soft">{escape(f"seed {seed}; " if seed is not None else "")}{escape(computed or versions())}</p>',
    ])


def bullets(title: str, lines: Sequence[str]) -> list[str]:
    return [f"<h2>{escape(title)}</h2>", "<ul>", *(f"<li>{escape(line)}</li>" for line in lines), "</ul>"] if lines else []


def again(commands: Sequence[str]) -> list[str]:
    return ["<h2>Run it again</h2>", *(f"<pre>{_flags(command)}</pre>" for command in commands)] if commands else []


def versions() -> str:
    """Of what computes here."""
    found = ", ".join(f"{name} {version}" for name in _PACKAGES if (version := version_of(name)))
    return f"{found}, Python {platform.python_version()}"


def computed(host: Mapping[str, Any]) -> str:
    """When, where and with what; "" where nobody noted it."""
    packages = host.get("packages")
    if not isinstance(packages, dict):
        return ""
    said = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    return f"computed {host.get('date', '')} on {host.get('platform', '')}; {said}, Python {host.get('python', '')}"


def _about(label: str, result: Outcome) -> str:
    if isinstance(result, Result):
        return about_result(label, result.policy)
    if result.summary.get("engine"):
        return f"measured, {result.summary['status']}: {result.summary['engine']}"
    return about_named(str(result.summary["policy"]), str(result.summary.get("policy_args") or ""))


def _measured(results: Mapping[str, Outcome]) -> str:
    engines = {label: result.summary["engine"] for label, result in results.items() if result.summary.get("engine")}
    if not engines:
        return SIMULATED
    simulated = [label for label in results if label not in engines]
    said = f"Measured on {', '.join(dict.fromkeys(map(str, engines.values())))}: {', '.join(engines)}."
    return said + (f" Simulated: {', '.join(simulated)}." if simulated else "")


def _titles(results: Mapping[str, Outcome]) -> list[str]:
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
