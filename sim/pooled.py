"""Statistics of many values of which many are equal."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, nan

import numpy as np

from policies.api import Floats, Ints


@dataclass(frozen=True, eq=False)
class Pooled:
    """Many values of which many are equal: each distinct one with how often it occurs."""

    values: Floats      #: ascending
    counts: Ints        #: at least 1 each
    n: int              #: their sum

    @classmethod
    def of(cls, values: Floats, counts: Ints) -> Pooled:
        values, counts = values[counts > 0], counts[counts > 0]
        order = values.argsort()
        return cls(values[order], counts[order], int(counts.sum()))

    @classmethod
    def each(cls, values: Floats) -> Pooled:
        """The values that are not NaN, once each."""
        known = np.sort(values[~np.isnan(values)])
        return cls(known, np.ones(len(known), np.int64), len(known))

    def mean(self) -> float:
        return float((self.values * self.counts).sum()) / self.n if self.n else nan

    def std(self) -> float:
        """Of the population, as `numpy.std` has it."""
        return float(np.sqrt((np.square(self.values - self.mean()) * self.counts).sum() / self.n)) if self.n else nan

    def percentile(self, q: float) -> float:
        """What `numpy.percentile` (linear) says of the values written out, to the last bit."""
        if not self.n:
            return nan
        place = (self.n - 1) * (q / 100)
        low = floor(place)
        below, above = self.values[self.counts.cumsum().searchsorted([low, min(low + 1, self.n - 1)], side="right")]
        share = place - low
        return float(below + (above - below) * share if share < 0.5 else above - (above - below) * (1 - share))
