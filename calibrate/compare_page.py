"""Predicted beside measured, as one HTML file that needs no network and no scripts."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from html import escape

from sim.plot_style import Drawing
from sim.report_html import HINT, document, figures, scrolling
from sim.saving import version_of
from sim.winner import RULE

from .agreement import EFFECT_RULE
from .compare_text import cells, distance_line, effect_cells, fidelity_line
from .comparison import Comparison, Pair


def page(found: Comparison, drawings: Sequence[Drawing]) -> str:
    first = found.pairs[0]
    real = first.measured[0].facts
    title = f"{', '.join(pair.label for pair in found.pairs)}: predicted beside measured"
    version = version_of("tokenflow-lab")
    return document(f"TokenFlow Lab: {title}", [
        f"<h1>{escape(title)}</h1>",
        f"<p>{len(first.simulated.requests['fate']):,} requests: {escape(str(first.simulated.facts.get('trace') or 'given'))}</p>",
        f"<p>{escape(str(real.get('model')))}. Measured: {escape(str(real.get('engine', real.get('hardware'))))}, tokens timed "
        f"{escape(str(real.get('token_times', 'in the simulator')))}. Status: <strong>{escape(found.status)}</strong>. Predicted: "
        f"{escape(str(first.simulated.facts.get('hardware')))}, step times "
        f"{escape(str(first.simulated.facts.get('latency_status', 'given')))}.</p>",
        f"<p><strong>{escape(found.verdict)}.</strong></p>",
        HINT,
        *(part for pair in found.pairs for part in _policy(pair)),
        *_effects(found),
        *_winners(found),
        *figures(drawings),
        *(f'<p class="soft">{escape(line)}</p>' for line in found.alone),
        f'<p class="soft">tokenflow-lab {escape(version or "")}, Python {platform.python_version()}</p>',
    ])


def _policy(pair: Pair) -> list[str]:
    lines = [distance_line(name, each) for name, each in pair.distances.items() if each.ks is not None]
    if pair.fidelity:
        lines.append(fidelity_line(pair))
    return [f"<h2>{escape(pair.heading)}</h2>",
            scrolling(_head("predicted", "measured", "error", "limit"), ["\n".join(_row(cells(row)) for row in pair.rows)]),
            *(f"<p>{escape(line)}</p>" for line in lines)]


def _effects(found: Comparison) -> list[str]:
    parts = []
    for label, effects in found.effects.items():
        parts += [f"<h2>{escape(label)} against {escape(found.pairs[0].label)}</h2>",
                  scrolling(_head("predicted", "measured", ""), ["\n".join(_row(effect_cells(effect)) for effect in effects)])]
    return [*parts, f'<p class="soft">{escape(EFFECT_RULE)}.</p>'] if parts else []


def _winners(found: Comparison) -> list[str]:
    if not any(found.winners.values()):
        return []
    said = [f"<p>{escape(name)}: <strong>{escape(each.winner or 'none')}</strong>"
            + "".join(f"; {escape(policy)} is out: {escape(why)}" for policy, why in each.out.items()) + "</p>"
            for name, each in found.winners.items() if each is not None]
    return ["<h2>Winner</h2>", *said, f'<p class="soft">The rule: {escape(RULE)}.</p>']


def _head(*titles: str) -> str:
    return "<td></td>" + "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)


def _row(texts: Iterable[str]) -> str:
    title, *values = texts
    return f'<tr><th scope="row">{escape(title)}</th>{"".join(f"<td>{escape(value)}</td>" for value in values)}</tr>'
