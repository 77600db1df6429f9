"""Which law the gaps between arrivals follow: maximum likelihood, judged by the Kolmogorov-Smirnov distance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from traces.trace import Floats

LEAST_GAPS = 20         # for a fit to say anything
LEAST_CV = 1e-5         # below, the gaps are those of a metronome
SHAPES = (1e-4, 1e6)


def gap_fits(gaps_s: Floats) -> dict[str, Any] | None:
    """Law -> its shape and distance, best first. Gaps of zero, which no law has, are left out; None when too few are left."""
    from scipy.special import gammainc
    gaps_s = np.sort(gaps_s[gaps_s > 0])
    if len(gaps_s) < LEAST_GAPS or gaps_s.std() < LEAST_CV * gaps_s.mean():
        return None
    x = gaps_s / gaps_s.mean()
    logs = np.log(gaps_s) - np.log(gaps_s.mean())       # of x, also where that rounds to zero
    gamma, weibull = _gamma_shape(logs), _weibull_shape(logs)
    fits = {
        "exponential": {"shape": 1.0, "ks": _distance(-np.expm1(-x))},
        "gamma": {"shape": gamma, "ks": _distance(gammainc(gamma, gamma * x))},
        "weibull": {"shape": weibull, "ks": _distance(-np.expm1(-np.exp(weibull * logs - _log_mean_exp(weibull * logs))))},
    }
    return dict(sorted(fits.items(), key=lambda fit: fit[1]["ks"]))


def _distance(law: Floats) -> float:
    """Largest distance between the law's distribution function at the sorted gaps and theirs."""
    steps = np.arange(len(law) + 1) / len(law)
    return float(max((steps[1:] - law).max(), (law - steps[:-1]).max()))


def _gamma_shape(logs: Floats) -> float:
    """Where the likelihood of gaps with mean 1 is greatest: log k - digamma(k) = - mean of their logarithms."""
    from scipy.special import digamma
    mean = float(logs.mean())
    return _root(lambda k: float(digamma(k) - np.log(k)) - mean)


def _weibull_shape(logs: Floats) -> float:
    """Likewise: the mean of the logarithms, weighted by gap ** k, less 1 / k, is their plain mean."""
    highest, mean = logs.max(), logs.mean()

    def slope(k: float) -> float:
        weights = np.exp(k * (logs - highest))      # gap ** k, kept from overflowing
        return float((weights * logs).sum() / weights.sum() - 1 / k - mean)

    return _root(slope)


def _root(rising: Callable[[float], float]) -> float:
    """Where the function is zero, within bounds that no trace is expected to reach."""
    from scipy.optimize import brentq
    least, most = SHAPES
    if rising(least) >= 0:
        return least
    return most if rising(most) <= 0 else float(brentq(rising, least, most))


def _log_mean_exp(values: Floats) -> float:
    highest = values.max()
    return float(highest + np.log(np.exp(values - highest).mean()))
