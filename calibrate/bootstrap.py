"""Intervals of fitted coefficients: the residual bootstrap.

The design stays whole, for its few corners carry some terms alone; what is drawn anew is the noise: every row gets the residual
of a row of its phase, at a random sign. Residuals are divided by 1 - leverage first, as a fit to few rows comes closer to them
than to the truth. What the model cannot follow counts as noise, independent from row to row. All resamples are fitted at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .solver import Floats, solve

if TYPE_CHECKING:
    from .fitting import Fit

RESAMPLES = 200
_LEVERAGE_MOST = 0.9
_ENOUGH = 10            # rows of a phase that have residuals of their own


def intervals(fit: Fit, resamples: int = RESAMPLES, level: float = 0.9, seed: int = 0) -> Floats:
    """Low and high (6, 2) of each parameter; those that the rows cannot tell have none (NaN)."""
    rng = np.random.default_rng(seed)
    own = fit.solution.residuals[0] / (1 - np.minimum(_leverage(fit), _LEVERAGE_MOST))
    noise = np.empty((resamples, len(own)))
    phases, counts = np.unique(fit.table.phase, return_counts=True)
    few = np.isin(fit.table.phase, phases[counts < _ENOUGH])
    for rows in [few, *(fit.table.phase == phase for phase in phases[counts >= _ENOUGH])]:
        if rows.any():
            shape = (resamples, np.count_nonzero(rows))
            noise[:, rows] = rng.choice(own[rows], shape) * rng.choice([-1.0, 1.0], shape)
    again = solve(fit.predict_s(fit.table.work) * np.exp(noise), fit.table.work,
                  np.repeat(fit.parameters[None], resamples, axis=0), fit.free, fit.scale, fit.host.inside_s)
    found: Floats = np.quantile(again.parameters, [(1 - level) / 2, (1 + level) / 2], axis=0).T
    found[~fit.free] = np.nan
    return found


def _leverage(fit: Fit) -> Floats:
    """Share of each row's noise that the fit takes for signal."""
    weights = (1 + (fit.solution.residuals[0] / fit.scale) ** 2) ** -0.25
    columns = (fit.solution.jacobian[0] * weights[:, None])[:, fit.free & (fit.parameters > 0)]
    norms = np.linalg.norm(columns, axis=0)
    base, singular, _ = np.linalg.svd(columns / np.where(norms > 0, norms, 1), full_matrices=False)
    leverage: Floats = (base[:, singular > 1e-9] ** 2).sum(axis=1)
    return leverage
