"""Predicted beside measured, in words and columns."""

from __future__ import annotations

from sim.winner import RULE, Verdict

from .agreement import DISTRIBUTIONS, EFFECT_RULE, Distance, Effect, Row
from .comparison import Comparison, Pair
from .fit_report import wrapped


def text(found: Comparison) -> str:
    """For a terminal of 80 columns."""
    lines = [f"predicted beside measured ({found.status})"]
    for pair in found.pairs:
        lines += ["", pair.heading, *_table(pair)]
    for label, each in found.effects.items():
        lines += ["", f"{label} against {found.pairs[0].label}", *map(_effect_line, each)]
    if found.effects:
        lines += wrapped(EFFECT_RULE)
    if any(found.winners.values()):
        lines += ["", *(f"{name}: {_winner(each)}" for name, each in found.winners.items()), *wrapped(f"the rule: {RULE}")]
        lines += [f"  {name}: {policy} is out: {why}" for name, each in found.winners.items() if each
                  for policy, why in each.out.items()]
    return "\n".join([*lines, "", *found.alone, found.verdict])


def _table(pair: Pair) -> list[str]:
    lines = [f"{'':24}{'predicted':>11}{'measured':>11}{'error':>9}  limit"]
    for row in pair.rows:
        title, mine, theirs, error, limit = cells(row)
        lines.append(f"{title:24}{mine:>11}{theirs:>11}{error:>9}  {limit}".rstrip())
    lines += [distance_line(name, each) for name, each in pair.distances.items() if each.ks is not None]
    if pair.fidelity:
        lines.append(fidelity_line(pair))
    return lines


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """Title, predicted, measured, error, limit and whether it was kept."""
    values = [shown(row.metric.form, value, row.metric.scale) for value in (row.predicted, row.measured)]
    error = "-" if row.error is None else f"{100 * row.error:+.1f} %"
    kept = "" if row.ok is None else f"{row.metric.limit}: {'ok' if row.ok else 'NOT OK'}"
    return row.metric.title, values[0], values[1], error, kept


def distance_line(name: str, found: Distance) -> str:
    return f"{DISTRIBUTIONS[name]}: KS {found.ks:.3f}, Wasserstein {1e3 * (found.wasserstein_s or 0):,.1f} ms"


def fidelity_line(pair: Pair) -> str:
    told = pair.fidelity
    return f"plan fidelity {100 * (told['plan_fidelity'] or 0):.3f} % of steps, departures {told['departures']:g}, " \
           f"fallbacks {told['fallbacks']:g}"


def shown(form: str, value: float | None, scale: float = 1.0) -> str:
    return "-" if value is None else form.format(value * scale)


def effect_cells(effect: Effect) -> tuple[str, str, str, str]:
    form = "{:+.2f} s" if effect.is_difference else "x{:.3f}"
    agrees = {True: "agrees", False: "DIFFERS", None: "-"}[effect.agrees]
    return effect.metric.title, shown(form, effect.predicted), shown(form, effect.measured), agrees


def _effect_line(effect: Effect) -> str:
    title, mine, theirs, agrees = effect_cells(effect)
    return f"{title:24}{mine:>11}{theirs:>11}{'':9}  {agrees}"


def _winner(found: Verdict | None) -> str:
    if found is None:
        return "no winner: no baseline"
    return f"winner {found.winner}" if found.winner else f"no winner: nobody within the limits is ahead of {found.baseline}"
