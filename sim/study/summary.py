"""A study's runs as tables: a row per run, a row per combination, and what failed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from ..intervals import estimate
from ..ledger import Entry
from .plan import Plan

Columns = dict[str, list[Any]]      #: of a table, by name
Facts = Mapping[str, Any]           #: of a run, as run.json has them

CI = "_ci95"                        #: half the width of the 95 % interval over seeds


def metrics(facts: Iterable[Facts]) -> list[str]:
    """Keys of what was measured: a summary says that before it names the policy, and then what was run. Numbers only."""
    found: dict[str, bool] = {}
    for each in facts:
        for name in takewhile(lambda name: name != "policy", each):
            value = each[name]
            found[name] = found.get(name, False) or (isinstance(value, int | float) and not isinstance(value, bool))
    return [name for name, numeric in found.items() if numeric]


def of_runs(plan: Plan, done: Mapping[str, Entry]) -> Columns:
    """Axes, seed and key, then everything that run.json has; what the axes say is not said again."""
    rows = [dict.fromkeys(plan.columns) | dict(run.combination.labels) | {"seed": run.seed, "key": run.key}
            for run in plan.runs if "facts" in done[run.key]]
    rows = [row | {name: value for name, value in done[row["key"]]["facts"].items() if name not in row} for row in rows]
    first = dict.fromkeys([*plan.columns, "seed", "key"])
    return _columns(rows, first)


def of_combinations(plan: Plan, done: Mapping[str, Entry]) -> Columns:
    """Name, axes, how many runs, and of each metric its mean over seeds and half the width of the interval; empty for one seed."""
    names = [name for name in metrics(facts(plan, done)) if name not in plan.columns]
    rows = []
    for combination, found in by_combination(plan, done).items():
        labels = next(run.combination.labels for run in plan.runs if str(run.combination) == combination)
        row: dict[str, Any] = {"combination": combination} | dict.fromkeys(plan.columns) | dict(labels) | {"runs": len(found)}
        for name in names:
            values = [each[name] for each in found.values() if _is_number(each.get(name))]
            one = estimate(values) if values else None
            row[name] = None if one is None else one.mean
            row[name + CI] = None if one is None or one.high is None else one.high - one.mean
        rows.append(row)
    return _columns(rows, {})


def failures(plan: Plan, done: Mapping[str, Entry]) -> Columns:
    """Of each simulation that came to no end: which, how to run it alone, and why."""
    failed = [done[key] for key in plan.keys if "failed" in done[key]]
    return {"key": [entry["key"] for entry in failed], "command": [entry["command"] for entry in failed],
            "why": [entry["failed"] for entry in failed]}


def facts(plan: Plan, done: Mapping[str, Entry]) -> list[Facts]:
    return [done[key]["facts"] for key in plan.keys if "facts" in done[key]]


def by_combination(plan: Plan, done: Mapping[str, Entry]) -> dict[str, dict[int, Facts]]:
    """What came of each combination, by seed; nothing where every run failed."""
    found: dict[str, dict[int, Facts]] = {str(combination): {} for combination in plan.combinations}
    for run in plan.runs:
        if "facts" in done[run.key]:
            found[str(run.combination)][run.seed] = done[run.key]["facts"]
    return found


def _columns(rows: Sequence[Mapping[str, Any]], first: Mapping[str, Any]) -> Columns:
    names = dict.fromkeys([*first, *(name for row in rows for name in row)])
    return {name: [row.get(name) for row in rows] for name in names}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
