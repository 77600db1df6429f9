"""The step-time model fitted to a table: coefficients, what the rows cannot tell, and how wrong the result is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from sim.latency import LatencyModel
from traces import BadInput

from .host_time import HostTime, host_time
from .solver import PARAMETERS, Bools, Floats, Solution, solve, step_s
from .tables import StepTable

if TYPE_CHECKING:
    from .held_out import HeldOut

_TERMS = len(PARAMETERS)
# scales of the loss: at most, at least, of the first look. Below 3 % fits to published tables would win a tenth of a percent on
# most rows and lose several on their worst
_WIDE, _NARROW, _COARSE = 0.10, 0.03, 0.05
_HUBER = 1.345 * 1.4826                         # from the median size of residuals: 95 % as sharp as least squares on clean noise
_ALIKE = 1e-3                                   # of unit columns: below it they cannot be told apart


@dataclass(frozen=True)
class Fit:
    """A table and the model fitted to it. Shown by print() and in a notebook."""

    table: StepTable
    parameters: Floats              #: in the order of `calibrate.solver.PARAMETERS`
    host: HostTime
    scale: float                    #: residual at which the loss turns from quadratic to linear
    free: Bools                     #: which of them the rows can tell at all
    unidentified: tuple[str, ...]   #: what they cannot, in words
    solution: Solution

    @property
    def latency(self) -> LatencyModel:
        """The model, host time included."""
        m, g, b, q, r, p = (float(value) for value in self.parameters)
        return LatencyModel(m, g, b, q, r, p, self.host.value_s)

    def predict_s(self, work: Floats) -> Floats:
        """Seconds (rows,) of steps of this work, with as much host time as the table's own latencies hold."""
        seconds: Floats = step_s(self.parameters, work)[0] + self.host.inside_s
        return seconds

    @cached_property
    def relative(self) -> Floats:
        """model / measured - 1 of each row."""
        return relative_errors(self, self.table)

    @cached_property
    def intervals(self) -> Floats:
        """90 % bootstrap intervals (6, 2), in the order of `parameters`."""
        from .bootstrap import intervals
        return intervals(self)

    @cached_property
    def held_out(self) -> HeldOut:
        """Errors on rows that were not fitted."""
        from .held_out import held_out
        return held_out(self.table, self.host)

    def __str__(self) -> str:
        from .fit_report import as_text
        return as_text(self)

    def _repr_html_(self) -> str:
        from .fit_report import as_html
        return as_html(self)


def relative_errors(fit: Fit, table: StepTable) -> Floats:
    """model / measured - 1 of the rows of a table like the one that was fitted."""
    relative: Floats = fit.predict_s(table.work) / table.seconds - 1
    return relative


def fit_steps(table: StepTable, host: HostTime | None = None) -> Fit:
    """The model that fits the table best. BadInput when it has too few rows.

    `host`: what is known of host time; by default as `host_time` reads it from the table.
    """
    host = host_time(table) if host is None else host
    free, unidentified = _identified(table)
    different = len(np.unique(table.work, axis=0))
    if different <= free.sum():
        raise BadInput("table", table.source, (
            f"{different} different steps are too few to fit {int(free.sum())} terms: at least {int(free.sum()) + 1} are needed"))
    start = _starts(table, host, free)
    first = solve(np.broadcast_to(table.seconds, (len(start), len(table))), table.work, start, free, _COARSE, host.inside_s)
    best = int(first.loss.argmin())
    spread = np.median(np.abs(first.residuals[best])) / np.sqrt(1 - free.sum() / (len(table) + 1))
    scale = float(np.clip(_HUBER * spread, _NARROW, _WIDE))
    found = solve(table.seconds[None], table.work, first.parameters[best:best + 1], free, scale, host.inside_s)
    said = (*unidentified, *_alike(found, free))
    return Fit(table, found.parameters[0], host, scale, free, said, found)


def _identified(table: StepTable) -> tuple[Bools, tuple[str, ...]]:
    """Which terms the rows can tell, and what is said of the others."""
    tokens, kv, pairs, seqs = table.work.T
    said = {}
    if not pairs.any():
        said["pair_s"] = "no row prefills: written as 0, so long prompts come out too fast"
    if not kv.any():
        said["kv_token_s"] = "no row decodes: written as 0, so long contexts come out too fast"
    if np.ptp(seqs) == 0:
        said["seq_s"] = f"every row has {seqs[0]:.0f} requests: part of weights_s, written as 0"
    if np.ptp(tokens) == 0:
        said["token_s"] = f"every row has {tokens[0]:.0f} tokens: part of weights_s, written as 0"
        said["knee"] = "without token_s there is none"
    free = np.array([name not in said for name in PARAMETERS])
    return free, tuple(f"{name}: {why}" for name, why in said.items())


def _alike(found: Solution, free: Bools) -> list[str]:
    """Terms between which the rows cannot choose: whose effects are all but multiples of each other."""
    norms = np.linalg.norm(found.jacobian[0], axis=0)
    seen = free & (norms > 0)
    columns = found.jacobian[0][:, seen] / norms[seen]
    _, singular, directions = np.linalg.svd(columns, full_matrices=False)
    names = np.array(PARAMETERS)[seen]
    return [f"{' and '.join(names[np.abs(direction) > 0.1])}: the rows cannot tell them apart"
            for value, direction in zip(singular, directions) if value < _ALIKE]


def _starts(table: StepTable, host: HostTime, free: Bools) -> Floats:
    """Places to look from: the shortest step reads the weights, the step of most tokens computes, the rest is a share."""
    seconds = np.maximum(table.seconds - host.inside_s, 0.05 * table.seconds)
    tokens = table.work[:, 0]
    rates = [np.median(seconds[some] / column[some]) if (some := column > 0).any() else 0.0 for column in table.work.T[1:]]
    compute = (seconds / tokens)[tokens.argmax()]
    starts = np.array([[seconds.min() * most, compute * most, *(share * rate for rate in rates), knee]
                       for knee, most, share in product((1.3, 2.0, 4.0), (0.5, 0.9), (0.02, 0.1))])
    starts[:, ~free] = 0.0
    if not free[-1]:
        starts[:, -1] = 2.0
    return starts
