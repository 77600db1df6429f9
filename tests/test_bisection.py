"""The border between loads that are carried and loads that are not, where the answer is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.study.bisection import Border, border


@given(st.floats(0.011, 90), st.floats(0.01, 100), st.sampled_from([0.005, 0.02, 0.2]))
def test_a_rate_between_two_that_were_tried(limit: float, start: float, tolerance: float) -> None:
    tried: list[float] = []

    def carries(load: float) -> bool:
        tried.append(load)
        return load <= limit

    found = border(carries, start=start, least=0.01, most=100.0, tolerance=tolerance, whole=False)
    assert found.carried is not None
    assert found.refused is not None
    assert found.carried <= limit < found.refused
    assert found.refused <= found.carried * (1 + tolerance) * 1.001
    assert (found.dips, found.again) == ((), ())
    assert len(tried) == len(set(tried)), "nothing is tried twice"
    assert {found.carried, found.refused} <= set(tried)


@given(st.integers(1, 300), st.integers(1, 400))
def test_bursts_are_whole_and_exact_without_tolerance(limit: int, start: int) -> None:
    found = border(lambda load: load <= limit, start=start, least=1, most=400, tolerance=0.0, whole=True)
    assert (found.carried, found.refused) == (limit, limit + 1)


def test_nobody_looks_where_nothing_is() -> None:
    assert border(lambda _: False, start=8, least=1, most=64, tolerance=0.0, whole=True) == Border(None, 1)
    assert border(lambda _: True, start=8, least=1, most=100, tolerance=0.0, whole=True) == Border(100, None)


@pytest.mark.parametrize(("carried", "start", "found"), [
    ({*range(1, 11), *range(14, 23)}, 6, Border(10, 11, again=(14, 16, 22))),
    ({*range(1, 11), *range(14, 23)}, 10, Border(22, 23, dips=(11,))),
    ({1, 2, 3, 4, *range(6, 11)}, 8, Border(10, 11, dips=(5,))),
])
def test_a_second_border_is_noticed(carried: set[int], start: int, found: Border) -> None:
    assert border(lambda load: load in carried, start=start, least=1, most=100, tolerance=0.0, whole=True) == found
