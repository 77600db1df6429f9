"""Results as one HTML file: table, figures, and how far to trust them. It needs no network and no scripts."""

from __future__ import annotations

import platform
import re
import struct
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape

from .cli_tables import Summary, header, heading, pages, sections
from .plots import Drawing
from .policy_texts import about_result
from .report_terms import terms_of
from .result import Result
from .saving import version_of

_PACKAGES = ("tokenflow-lab", "simpy", "numpy", "matplotlib")

_WIDTH = 115        # of a table, in characters: what a desktop shows at once, and a sheet of paper holds

# what holds of every report
_CAVEATS = (
    "Everything here is simulated: one GPU, one model, one engine. Nothing was measured on a GPU for this report.",
    "Never judge by effective tokens/s alone: it does not punish stalls, and merely generating slowly raises it. Look at TTFT and "
    "rebuffering beside it.",
    "One workload and one seed are one sample: try other seeds, loads and reading rates before you trust a difference.",
)

_STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --soft: #5c5c5c; --line: #d5d5d5; --page: #ffffff; --box: #f5f5f3 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8e8e6; --soft: #a9a9a5; --line: #3d3d3d; --page: #181818; --box: #242424 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.25rem 1rem 3rem; max-width: 70rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 1rem }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem }
h3 { font-size: 1rem; margin: 0 0 .4rem }
p, li { max-width: 46rem }
p { margin: .4rem 0 }
ul { padding-left: 1.2rem }
pre { margin: .4rem 0; padding: .6rem .8rem; background: var(--box); border-radius: 4px; font-size: .85rem;
  white-space: pre-wrap; overflow-wrap: anywhere }
.flag { display: inline-block; max-width: 100%; vertical-align: top }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .15rem 1rem; margin: .4rem 0; max-width: 62rem;
  font-size: .9rem }
dt { font-weight: 600 }
dd { margin: 0 }
.soft { color: var(--soft); font-size: .9rem }
.hint { display: none }
.scroll { margin-bottom: .8rem; overflow-x: auto; border: 1px solid var(--line); border-radius: 4px }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: right; white-space: nowrap }
th { font-weight: 600; vertical-align: bottom }
tbody th { text-align: left; font-weight: 400 }
tr > :first-child { position: sticky; left: 0; background: var(--page); border-right: 1px solid var(--line) }
tbody tr:first-child > * { border-top: 1px solid var(--line) }
td small { display: inline-block; min-width: 3.2em; color: var(--soft) }
.part { padding-left: 1.6rem }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 2rem 1.5rem;
  align-items: start }
figure { margin: 0 }
img { display: block; width: 100%; max-width: 34rem; height: auto; background: #ffffff; border-radius: 4px }
figcaption { margin-top: .4rem; font-size: .9rem; max-width: 34rem }
@media (max-width: 40rem) {
  body { padding: 1rem .8rem 2rem }
  table { font-size: .8rem }
  th, td { padding: .2rem .45rem }
  tbody th { white-space: normal; min-width: 7.5rem }
  .hint { display: block }
  dl { display: block }
  dd { margin-bottom: .4rem }
}
@media print {
  :root { --text: #000000; --soft: #444444; --line: #bbbbbb; --page: #ffffff; --box: #f5f5f5 }
  body { max-width: none; padding: 0; font-size: .85rem }
  .scroll { overflow: visible; border: 0 }
  .hint { display: none }
  table { font-size: .7rem }
  th, td { padding: .1rem .3rem }
  figure, table, pre, dd { break-inside: avoid }
  .figures { grid-template-columns: 1fr 1fr }
}
"""


def page(results: Mapping[str, Result], drawings: Sequence[Drawing], commands: Sequence[str]) -> str:
    """The report on results by label; ratios are to the first. `commands`: what gives them again, on a command line."""
    first = next(iter(results.values()))
    title = f"{len(results)} policies on {len(first.trace):,} requests" if len(results) > 1 else f"{first.label}"
    versions = ", ".join(f"{name} {version}" for name in _PACKAGES if (version := version_of(name)))
    seed = first.summary.get("seed")
    return "\n".join([
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">""",
        f"<title>TokenFlow Lab: {escape(', '.join(results))}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{_flags(line)}</p>" for line in heading(first)),
        "<h2>Policies</h2>" if len(results) > 1 else "<h2>Policy</h2>",
        _terms([(label, about_result(label, result.policy).replace("`", "")) for label, result in results.items()]),
        "<h2>Results</h2>",
        '<p class="soft hint">There is more to the right: scroll the table sideways.</p>',
        *(_table({label: result.summary for label, result in results.items() if label in shown})
          for shown in pages(list(results), _WIDTH)),
        *(['<p class="soft">x0.63: the ratio to the first policy.</p>'] if len(results) > 1 else []),
        "<h2>What the rows say</h2>",
        _terms([(term.name, term.means) for term in terms_of(_titles(results))]),
        *(["<h2>Figures</h2>", '<div class="figures">', *map(_figure, drawings), "</div>"] if drawings else []),
        "<h2>How far to trust this</h2>",
        "<ul>",
        *(f"<li>{escape(caveat)}</li>" for caveat in _CAVEATS),
        "</ul>",
        *(["<h2>Run it again</h2>", *(f"<pre>{_flags(command)}</pre>" for command in commands)] if commands else []),
        f'<p class="soft">{escape(f"seed {seed}; " if seed is not None else "")}{escape(versions)}, '
        f"Python {escape(platform.python_version())}</p>",
        "</body>",
        "</html>",
        "",
    ])


def _titles(results: Mapping[str, Result]) -> list[str]:
    """Of all rows that the tables have."""
    return [title for section in sections({label: result.summary for label, result in results.items()}) for title, _ in section]


def _terms(said: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["<dl>", *(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in said), "</dl>"])


def _flags(command: str) -> str:
    """The text, whose lines are broken between flags: each stays with its value."""
    words, *flags = re.split(r" (?=--)", command)
    return " ".join([escape(words), *(f'<span class="flag">{escape(flag)}</span>' for flag in flags)])


def _table(summaries: Mapping[str, Summary]) -> str:
    """In a box of its own, which scrolls where the screen is narrow."""
    labels = "".join(f'<th scope="col">{_broken(label)}</th>' for label in summaries)
    parts = []
    for section in sections(summaries):
        rows = []
        for title, cells in section:
            kind = ' class="part"' if title.startswith(" ") else ""
            rows.append(f'<tr><th scope="row"{kind}>{escape(title.strip())}</th>{"".join(map(_cell, cells))}</tr>')
        parts.append("<tbody>\n" + "\n".join(rows) + "\n</tbody>")
    return "\n".join(['<div class="scroll" tabindex="0" role="region" aria-label="Results">', "<table>",
                      f'<thead><tr><td></td>{labels}</tr></thead>', *parts, "</table>", "</div>"])


def _cell(cells: Sequence[str]) -> str:
    """A value, and beside it the ratio; an empty ratio keeps its place, so that values stand below each other."""
    value, *ratio = cells
    return f"<td>{escape(value)}{''.join(f' <small>{escape(text)}</small>' for text in ratio)}</td>"


def _broken(label: str) -> str:
    return "<br>".join(escape(line) for line in header(label).split("\n"))


def _figure(drawing: Drawing) -> str:
    width, height = struct.unpack(">II", drawing.png[16:24])        # where every PNG has them
    return "\n".join(["<figure>", f"<h3>{escape(drawing.title)}</h3>",
                      f'<img src="data:image/png;base64,{b64encode(drawing.png).decode()}" alt="{escape(drawing.title)}, a plot" '
                      f'width="{width}" height="{height}">',
                      f"<figcaption>{escape(drawing.caption)}</figcaption>", "</figure>"])
