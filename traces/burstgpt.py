"""Synthetic requests like those of BurstGPT (Wang et al., KDD 2025, arXiv 2401.17644), from statistics of the real trace.

The trace itself is not at hand here, so whatever these statistics do not say is missing: the time of day, how one hour
resembles the next, how conversation and API traffic differ, and that long prompts get longer answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log1p, sqrt
from typing import ClassVar, Self

import numpy as np

from traces.errors import BadInput
from traces.trace import Floats, Ints

SHAPE = 0.25            #: of the Gamma gaps: default of the authors' own generator, CV 2.0 (HPMLL/BurstGPT, example/)
LOAD_CV = 2.6           #: of the load of an hour: gives a median CV of 2.3 over 1,464 hours, that of BurstGPT_1's hourly requests
HOUR_S = 3600.0
MOST_HOURS = 1_000_000


def hourly_load(rng: np.random.Generator, ends: Floats, span_s: float) -> Floats:
    """Times in seconds for `ends`, which rise to 1 as an even load would: hours become busy or quiet, `span_s` stays.

    An hour's load is lognormal with CV `LOAD_CV`. What was not fitted comes out near the real trace: over 1,464 hours the
    P95 is 3.8 means (real: 4.2), the busiest hour 41 (34), and its busiest 1 % of hours hold 17 % of requests (17 %).
    """
    if span_s > MOST_HOURS * HOUR_S:
        raise BadInput("--request-rate", f"{len(ends) / span_s:g}", f"is so small that the trace outlasts {MOST_HOURS} hours")
    sigma = sqrt(log1p(LOAD_CV**2))
    hours = ceil(span_s / HOUR_S)
    edges_s = np.minimum(np.arange(hours + 1) * HOUR_S, span_s)
    load = np.append(0.0, np.cumsum(rng.lognormal(-sigma * sigma / 2, sigma, hours) * np.diff(edges_s)))
    times_s: Floats = np.interp(ends, load / load[-1], edges_s)
    return times_s


@dataclass(frozen=True)
class _Quantiles:
    """Between published quantiles the logarithm of the length rises evenly; the shortest is 1 token."""

    form: ClassVar[str]
    levels: ClassVar[tuple[float, ...]] = (0.0, 0.5, 0.9, 0.95, 0.99, 1.0)
    tokens: ClassVar[tuple[int, ...]]

    @classmethod
    def parse(cls, parameters: list[str], side: str) -> Self:
        return cls()

    def sample(self, rng: np.random.Generator, n: int) -> Ints:
        return np.rint(np.exp(np.interp(rng.random(n), self.levels, np.log(self.tokens)))).astype(np.int64)

    def __str__(self) -> str:
        return self.form


@dataclass(frozen=True)
class BurstGptRequest(_Quantiles):
    """Prompts: P50, 90, 95, 99 and the longest of the first 60,000 rows of BurstGPT_1. The mean becomes 389 (real: 374)."""

    form: ClassVar[str] = "burstgpt-request"
    tokens: ClassVar[tuple[int, ...]] = (1, 74, 1291, 1697, 3023, 6142)


@dataclass(frozen=True)
class BurstGptResponse(_Quantiles):
    """Outputs: likewise. The mean becomes 125 (real: 122)."""

    form: ClassVar[str] = "burstgpt-response"
    tokens: ClassVar[tuple[int, ...]] = (1, 14, 401, 510, 757, 7315)
