"""Verdicts on published claims: intervals over seeds, signs, sizes, best rows."""

from __future__ import annotations

from math import inf

import pytest
from scipy import stats

from sim.intervals import Estimate, estimate
from sim.reproduce.verdicts import DIRECTION, FAILS, HOLDS, at_least, best, judge, near, ordered


def test_interval_is_students() -> None:
    values = [0.4, 0.5, 0.9, 0.6]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 3, loc=0.6, scale=stats.sem(values))
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((0.6, low, high, 4), abs=1e-3)


@pytest.mark.parametrize("n", [2, 3, 10, 30, 31, 60, 200])
def test_quantiles_are_students(n: int) -> None:
    values = [float(i % 7) for i in range(n)]
    found = estimate(values)
    low, high = stats.t.interval(0.95, n - 1, loc=found.mean, scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=2e-3)


def test_one_seed_has_no_interval() -> None:
    assert estimate([0.3]) == Estimate(0.3, None, None, 1)


def test_no_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        estimate([])


@pytest.mark.parametrize(("published", "low", "mean", "high", "verdict"), [
    (0.5, 0.44, 0.45, 0.46, HOLDS),             # -50 % published, -55 % ours
    (0.5, 0.59, 0.599, 0.61, HOLDS),            # -40.1 %: just within a fifth of the effect
    (0.5, 0.6, 0.61, 0.62, DIRECTION),          # -39 %
    (0.5, 0.3, 0.39, 0.4, DIRECTION),           # -61 %: too strong is no match either
    (0.5, 0.1, 0.5, 1.01, FAILS),               # no change is not excluded
    (0.5, 1.4, 1.5, 1.6, FAILS),                # the other sign
    (1.5, 1.41, 1.45, 1.5, HOLDS),
    (1.5, 1.9, 2.0, 2.1, DIRECTION),
    (1.5, 0.9, 1.5, 2.1, FAILS),
    (1.5, 0.5, 0.6, 0.7, FAILS),
])
def test_ratio_against_a_published_ratio(published: float, low: float, mean: float, high: float, verdict: str) -> None:
    assert judge(Estimate(mean, low, high, 5), published) == verdict


def test_a_single_seed_is_judged_by_its_value() -> None:
    assert judge(Estimate(0.52, None, None, 1), 0.5) == HOLDS
    assert judge(Estimate(0.9, None, None, 1), 0.5) == DIRECTION
    assert judge(Estimate(1.0, None, None, 1), 0.5) == FAILS


def test_without_a_published_size_the_direction_is_all_that_can_hold() -> None:
    assert judge(Estimate(0.5, 0.4, 0.6, 5), sign=-1) == DIRECTION
    assert judge(Estimate(0.5, 0.4, 0.6, 5), sign=+1) == FAILS
    assert judge(Estimate(1.2, 1.1, 1.3, 5), sign=+1) == DIRECTION


def test_a_claim_has_a_size_or_a_sign() -> None:
    with pytest.raises(ValueError, match="size or a sign"):
        judge(Estimate(0.5, 0.4, 0.6, 5))


def test_the_best_row_is_the_one_furthest_in_the_claimed_direction() -> None:
    rows = {"a": Estimate(0.7, 0.6, 0.8, 5), "b": Estimate(0.3, 0.2, 0.4, 5), "c": Estimate(2.0, 1.9, 2.1, 5)}
    assert best(rows, sign=-1) == "b"
    assert best(rows, sign=+1) == "c"


def test_at_least() -> None:
    assert at_least(Estimate(0.98, 0.95, 1.01, 5), 0.97) == HOLDS
    assert at_least(Estimate(0.96, 0.95, 0.97, 5), 0.97) == FAILS
    assert at_least(Estimate(inf, None, None, 1), 0.97) == HOLDS


def test_near() -> None:
    assert near(Estimate(1.1, 1.05, 1.15, 5), 0.2) == HOLDS
    assert near(Estimate(0.7, 0.65, 0.75, 5), 0.2) == FAILS


def test_an_order_needs_every_step() -> None:
    up, flat = Estimate(1.2, 1.1, 1.3, 5), Estimate(1.05, 0.9, 1.2, 5)
    assert ordered([up, up]) == DIRECTION
    assert ordered([up, flat]) == FAILS
