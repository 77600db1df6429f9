"""Does a claim hold? Ratios over seeds, against a published ratio. Pure.

    holds               same sign, the interval excludes no change, and the effect (ratio - 1) within a fifth of the published one
    direction holds     same sign, and the interval excludes no change
    does not hold       otherwise
    not testable        with a reason

One seed has no interval: it is judged by its value alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..intervals import Estimate

HOLDS, DIRECTION, FAILS, UNTESTABLE = "holds", "direction holds", "does not hold", "not testable"

_WITHIN = 0.2       # of the published effect


def judge(ratio: Estimate, published: float | None = None, sign: int = 0) -> str:
    """`ratio`: ours to a baseline's; `published`: the paper's ratio; `sign`: where the paper says only up (+1) or down (-1)."""
    if published is None and not sign:
        raise ValueError("a claim has a size or a sign")
    up = sign > 0 if published is None else published > 1
    if not _beyond(ratio, up):
        return FAILS
    if published is not None and abs(ratio.mean - published) <= _WITHIN * abs(published - 1) + 1e-12:
        return HOLDS
    return DIRECTION


def best(rows: Mapping[str, Estimate], sign: int) -> str:
    """The row on which an "up to" claim is judged: furthest in the claimed direction."""
    return max(rows, key=lambda row: sign * rows[row].mean)


def worst(rows: Mapping[str, Estimate], sign: int) -> str:
    """The row on which an "everywhere" claim is judged."""
    return min(rows, key=lambda row: sign * rows[row].mean)


def at_least(ratio: Estimate, bound: float) -> str:
    """For "not degraded"."""
    return HOLDS if ratio.mean >= bound else FAILS


def near(ratio: Estimate, within: float) -> str:
    """For "as the other": the mean at most so far from 1."""
    return HOLDS if abs(ratio.mean - 1) <= within else FAILS


def ordered(steps: Sequence[Estimate]) -> str:
    """For "a < b < c": each one's ratio to the one before."""
    return DIRECTION if all(_beyond(step, up=True) for step in steps) else FAILS


def _beyond(ratio: Estimate, up: bool) -> bool:
    """Whether it lies on that side of 1, with all of its interval."""
    nearest = (ratio.low if up else ratio.high) if ratio.low is not None else ratio.mean
    assert nearest is not None
    return nearest > 1 if up else nearest < 1

