"""The parts of a page that needs no network and no scripts, and is readable on a phone and on paper."""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Sequence
from html import escape

from .plot_style import Drawing

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


def document(title: str, body: Sequence[str]) -> str:
    """A whole page; `title` is text, `body` HTML."""
    return "\n".join([
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">""",
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        *body,
        "</body>",
        "</html>",
        "",
    ])


def terms(said: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["<dl>", *(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in said), "</dl>"])


def scrolling(head: str, parts: Sequence[str]) -> str:
    """A table in a box of its own, which scrolls where the screen is narrow. `head`: cells; `parts`: the rows of its sections."""
    sections = ["<tbody>\n" + part + "\n</tbody>" for part in parts]
    return "\n".join(['<div class="scroll" tabindex="0" role="region" aria-label="Results">', "<table>",
                      f"<thead><tr>{head}</tr></thead>", *sections, "</table>", "</div>"])


HINT = '<p class="soft hint">There is more to the right: scroll the table sideways.</p>'


def figures(drawings: Sequence[Drawing]) -> list[str]:
    return ["<h2>Figures</h2>", '<div class="figures">', *map(_figure, drawings), "</div>"] if drawings else []


def _figure(drawing: Drawing) -> str:
    width, height = struct.unpack(">II", drawing.png[16:24])        # where every PNG has them
    return "\n".join(["<figure>", f"<h3>{escape(drawing.title)}</h3>",
                      f'<img src="data:image/png;base64,{b64encode(drawing.png).decode()}" alt="{escape(drawing.title)}, a plot" '
                      f'width="{width}" height="{height}">',
                      f"<figcaption>{escape(drawing.caption)}</figcaption>", "</figure>"])
