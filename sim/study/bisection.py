"""The largest load that is carried, by bisection. Pure.

Bisection needs that whoever carries a load carries every smaller one. Nothing guarantees that: batches fill differently, so
the share of good requests may dip and rise again. What is found is therefore a border between two loads next to each other
that were tried, and loads well below and beyond it are tried as well, so that a second border is at least noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

_BELOW = (0.5, 0.8)             #: of the largest load carried: tried as well
_BEYOND = (1.25, 1.5, 2.0)      #: of the smallest refused
_DIGITS = 4                     #: significant ones of a rate that is tried


@dataclass(frozen=True)
class Border:
    """Between what is carried and what is not; both sides were tried."""

    carried: float | None               #: None: not even the least
    refused: float | None               #: None: even the most is carried
    dips: tuple[float, ...] = ()        #: smaller loads than `carried` that are not carried
    again: tuple[float, ...] = ()       #: larger loads than `refused` that are


def border(carries: Callable[[float], bool], *, start: float, least: float, most: float, tolerance: float, whole: bool) -> Border:
    """Of `carries` in [least, most]: doubled or halved from `start`, then bisected to `tolerance` of the load; with `whole`, loads
    are whole numbers, and no closer than 1. Nothing is tried twice."""
    tried: dict[float, bool] = {}

    def holds(load: float) -> bool:
        if load not in tried:
            tried[load] = carries(load)
        return tried[load]

    def shaped(load: float) -> float:
        return min(max(round(load) if whole else float(f"{load:.{_DIGITS}g}"), least), most)

    low, high = _bracket(holds, shaped, shaped(start), least, most)
    while low is not None and high is not None and high - low > max(tolerance * low, 1 if whole else 0):
        middle = shaped((low + high) / 2 if whole else sqrt(low * high))
        if not low < middle < high:
            break
        low, high = (middle, high) if holds(middle) else (low, middle)
    for load in [*(share * low for share in _BELOW if low is not None), *(share * high for share in _BEYOND if high is not None)]:
        holds(shaped(load))
    return Border(low, high,
                  tuple(sorted(load for load, good in tried.items() if low is not None and load < low and not good)),
                  tuple(sorted(load for load, good in tried.items() if high is not None and load > high and good)))


def _bracket(holds: Callable[[float], bool], shaped: Callable[[float], float], start: float, least: float,
             most: float) -> tuple[float | None, float | None]:
    """A load that is carried and a larger one that is not."""
    load = start
    if holds(load):
        while load < most:
            larger = shaped(2 * load)
            if not holds(larger):
                return load, larger
            load = larger
        return load, None
    while load > least:
        smaller = shaped(load / 2)
        if holds(smaller):
            return smaller, load
        load = smaller
    return None, load
