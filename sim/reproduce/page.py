"""reproduction.md and reproduction.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .item import Item, Table, Told
from .judging import Row
from .setups import How
from .verdicts import DIRECTION, FAILS, HOLDS, UNTESTABLE

_READ = f"""\
Every run is simulated; nothing was measured on a GPU. Ratios are ours over the baseline's, on the same requests, seed by seed: the
mean, and Student's 95 % interval over seeds. **{HOLDS}**: same sign as published, the interval excludes no change, and the effect
(ratio - 1) is within a fifth of the published one. **{DIRECTION}**: same sign, and the interval excludes no change; the most that
a claim of better or worse without a figure can reach. **{FAILS}**: otherwise. "Up to" is judged on the best row, "every" on the
worst. What claims a likeness or a bound (raw throughput at least 0.97 of SGLang's, "within 10 %", peak TTFT above 20 s, each class
at 0.99 of its rate, nobody stalls) holds or not by the mean alone: its interval may reach across. Physics and policies are not
tuned to any published number. Effective throughput does not punish stalls: look at rebuffering beside it, and at the two controls,
SGLang with a plain rate cap and FCFS with offload (the policy's value over each control's).

Andes plans anew every 10 steps, as its authors' code does, and computes preempted requests again, as TokenFlow's authors ran it.
What its refiner counts as lost is our reading. SGLang without chunked prefill is the paper's first baseline; as it comes it chunks:
the reason says how a gain stands over that (`sglang-chunked`)."""


_MULTIPLE = 3.0     # from this ratio on an effect is told as a multiple


def facts(items: Sequence[Item], told: Mapping[str, Told], how: How, version: str | None, code: str,
          digests: Sequence[str]) -> dict[str, Any]:
    """What reproduction.json holds; the same command gives the same."""
    rows = [row.facts() for item in items for row in told[item.name].rows]
    return {
        "tokenflow_lab": version, "code": code, "paper": "arXiv 2510.02758", "seeds": how.seeds, "quick": how.quick,
        "burstgpt": how.burstgpt or "generated", "items": [item.name for item in items], "runs": len(digests),
        "verdicts": dict(Counter(row["verdict"] for row in rows)), "claims": rows,
        "tables": {item.name: [asdict(table) for table in told[item.name].tables] for item in items if told[item.name].tables},
    }


def page(items: Sequence[Item], told: Mapping[str, Told], how: How, command: str, measured: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [row for item in items for row in told[item.name].rows]
    seeds = "one seed, so there are no intervals and values alone are judged" if how.seeds == 1 else f"{how.seeds} seeds"
    quick = ("**Quick**: Poisson rows have a minute of arrivals, BurstGPT a tenth of its twenty minutes. Read it as a check of "
             "the command, "
             "not of the paper.") if how.quick else ""
    parts = ["# TokenFlow, published and here", f"`{command}`; {seeds}.", *([quick] if quick else []), _READ, "## Verdicts",
             _counts(rows),
             _overview(rows)]
    for item in items:
        parts += _section(item, told[item.name], measured if item.name == "overhead" else {})
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(item: Item, told: Told, measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    parts = [f"## {item.name}: {item.about}", *told.notes]
    if told.rows:
        parts.append(_verdicts(told.rows))
    parts += [_table(table) for table in told.tables]
    if measured:
        parts.append(_table(Table("CPU time of one plan call on this computer (Python; the paper: 0.07 to 0.4 ms)", (
            "policy and requests", "calls", "median, ms", "mean, ms", "P99, ms"), [[name, *one.values()] for name,
                                                                                   one in measured.items()])))
    return [*parts, *(f"![{picture.caption}]({picture.name}.png)\n\n{picture.caption}" for picture in told.pictures)]


def _counts(rows: Sequence[Row]) -> str:
    count = Counter(row.verdict for row in rows)
    return ", ".join(f"{count[verdict]} {verdict}" for verdict in (HOLDS, DIRECTION, FAILS, UNTESTABLE)) + "."


def _overview(rows: Sequence[Row]) -> str:
    lines = [[row.source, row.says, _name(row.policy), row.baseline, row.on, published(row), ours(row), row.verdict]
             for row in rows]
    return _markdown(("paper", "claim", "policy", "against", "on", "published", "ours", "verdict"), lines)


def _verdicts(rows: Sequence[Row]) -> str:
    lines = [[row.says, _name(row.policy), row.baseline, row.on, published(row), ours(row), _number(row.value),
              _number(row.baseline_value),
              _controls(row), _pair(row.rebuffer_s, row.baseline_rebuffer_s), f"**{row.verdict}**", row.why] for row in rows]
    return _markdown(("claim", "policy", "against", "on", "published", "ours", "value", "its value", "over rate cap, offload",
                      "rebuffering, s: ours, its", "verdict", "why"), lines)


def published(row: Row) -> str:
    return "" if row.published is None else _shown(row.published, row.unit)


def ours(row: Row, interval: bool = True) -> str:
    """The estimate, as the published one is shown."""
    if row.ours is None:
        return ""
    shown, low, high = _shown(row.ours.mean, row.unit), row.ours.low, row.ours.high
    if low is None or high is None or not interval:
        return shown
    if not row.unit and row.ours.mean >= _MULTIPLE:
        return f"{shown} (x{low:.3g} to x{high:.3g})"       # ends in the mean's own terms
    return f"{shown} ({_shown(low, row.unit)} to {_shown(high, row.unit)})"


def _shown(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}" if unit else effect(value)


def effect(ratio: float) -> str:
    """As the paper writes it; from three times on as a multiple."""
    return f"x{ratio:.3g}" if ratio >= _MULTIPLE else f"{(ratio - 1) * 100:+.1f} %"


def _controls(row: Row) -> str:
    if not row.to_controls:
        return ""
    return ", ".join("-" if value is None else f"x{value:.3g}" for value in row.to_controls.values())


def _pair(one: float | None, other: float | None) -> str:
    return "" if one is None else f"{one:.3g}" + ("" if other is None else f", {other:.3g}")


def _name(policy: str) -> str:
    return f"`{policy}`" if policy else ""


def _table(table: Table) -> str:
    return f"**{table.title}**\n\n" + _markdown(table.columns, [[_number(cell) for cell in line] for line in table.rows])


def _number(cell: Any) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}" if abs(cell) >= 0.001 else f"{cell:.2g}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    return "\n".join([line(columns), "|" + "---|" * len(columns), *map(line, lines)])
