"""Policies against the first of them, on the same requests: differences and ratios seed by seed, with their intervals. Pure.

The same seed gives every policy the same requests, so what a seed makes hard is hard for all and cancels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..intervals import Estimate, estimate
from ..ledger import Entry
from .design import Combination
from .plan import Plan
from .summary import Columns, by_combination, facts, metrics

_COLUMNS = ("combination", "baseline", "metric", "pairs", "difference", "difference_ci95", "ratio", "ratio_ci95")


def groups(combinations: Sequence[Combination]) -> list[list[Combination]]:
    """Those between which only the policy and its arguments differ; each group begins with its baseline."""
    found: dict[str, list[Combination]] = {}
    for combination in combinations:
        others = {name: value for name, value in combination.flags.items() if name.split(".")[0] not in ("policy", "policy_arg")}
        found.setdefault(json.dumps(others, sort_keys=True, default=str), []).append(combination)
    return [group for group in found.values() if len(group) > 1]


def table(plan: Plan, done: Mapping[str, Entry]) -> Columns:
    """A row per combination that has a baseline, and metric: the mean of (value - baseline's) and of value / baseline's."""
    columns: Columns = {name: [] for name in _COLUMNS}
    by_seed, names = by_combination(plan, done), metrics(facts(plan, done))
    for first, *others in groups(plan.combinations):
        for other in others:
            for metric in names:
                pairs = _pairs(by_seed[str(other)], by_seed[str(first)], metric)
                if pairs:
                    ratios = [value / base for value, base in pairs if base]
                    row = (str(other), str(first), metric, len(pairs), *_cells(estimate([value - base for value, base in pairs])),
                           *_cells(estimate(ratios) if len(ratios) == len(pairs) else None))
                    for name, cell in zip(_COLUMNS, row):
                        columns[name].append(cell)
    return columns


def _pairs(values: Mapping[int, Mapping[str, Any]], bases: Mapping[int, Mapping[str, Any]], metric: str) -> list[tuple[float, float]]:
    """Of the seeds on which both came to an end."""
    both = [(values[seed].get(metric), bases[seed].get(metric)) for seed in values if seed in bases]
    return [(value, base) for value, base in both if isinstance(value, int | float) and isinstance(base, int | float)]


def _cells(found: Estimate | None) -> tuple[float | None, float | None]:
    if found is None:
        return None, None
    return found.mean, None if found.high is None else found.high - found.mean
