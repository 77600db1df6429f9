"""Errors on rows that a fit has not seen: twelve rows chosen to span the table against all others, and random halves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from traces import BadInput

from .fitting import fit_steps, relative_errors
from .host_time import HostTime
from .regions import Errors, by_region
from .solver import Floats
from .tables import StepTable

Rows = npt.NDArray[np.int64]

HALVES = 10
DESIGNED = 12


@dataclass(frozen=True)
class HeldOut:
    """None: the table has too few rows for it."""

    designed: dict[str, Errors] | None      #: by region, of a fit to `DESIGNED` rows on all others
    halves: dict[str, Errors] | None        #: by region, over all held-out rows of `HALVES` random halves; max is the worst of all


def held_out(table: StepTable, host: HostTime | None = None) -> HeldOut:
    return HeldOut(_designed(table, host), _halves(table, host))


def designed_rows(table: StepTable, points: int = DESIGNED) -> Rows:
    """Rows far from each other in batch and tokens (their logarithms), from every phase; a choice that looks at no latency."""
    phases = list(dict.fromkeys(table.phase.tolist()))
    counts = np.array([np.count_nonzero(table.phase == phase) for phase in phases])
    share = np.log1p(counts) / np.log1p(counts).sum() * points
    quota = np.floor(share).astype(int)
    quota[np.argsort(quota - share, kind="stable")[:points - quota.sum()]] += 1
    chosen = [_far_apart(table, np.flatnonzero(table.phase == phase), int(few)) for phase, few in zip(phases, quota)]
    return np.sort(np.concatenate(chosen))


def _far_apart(table: StepTable, rows: Rows, few: int) -> Rows:
    """`few` of these rows: the one with least work, then again and again the one farthest from all chosen so far."""
    place = np.log1p(np.column_stack([table.batch[rows], table.each[rows]]))
    place = (place - place.min(axis=0)) / np.maximum(np.ptp(place, axis=0), 1e-9)
    chosen = [int(place.sum(axis=1).argmin())]
    while len(chosen) < min(few, len(rows)):
        distance = np.linalg.norm(place[:, None] - place[chosen], axis=2).min(axis=1)
        chosen.append(int(distance.round(9).argmax()))
    return rows[chosen]


def _designed(table: StepTable, host: HostTime | None) -> dict[str, Errors] | None:
    chosen = designed_rows(table)
    rest = np.setdiff1d(np.arange(len(table)), chosen)
    if not len(rest):
        return None
    errors = _errors(table, chosen, rest, host)
    return None if errors is None else by_region(table.select(rest), errors)


def _halves(table: StepTable, host: HostTime | None) -> dict[str, Errors] | None:
    rng = np.random.default_rng(0)
    tested, errors = [], []
    for _ in range(HALVES):
        shuffled = rng.permutation(len(table))
        half = len(table) // 2
        found = _errors(table, shuffled[:half], shuffled[half:], host)
        if found is None:
            return None
        tested.append(shuffled[half:])
        errors.append(found)
    return by_region(table.select(np.concatenate(tested)), np.concatenate(errors))


def _errors(table: StepTable, train: Rows, test: Rows, host: HostTime | None) -> Floats | None:
    """model / measured - 1 on `test` of a fit to `train`; None where that is too few rows."""
    try:
        fit = fit_steps(table.select(train), host)
    except BadInput:
        return None
    return relative_errors(fit, table.select(test))
