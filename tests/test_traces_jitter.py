"""`jitter_ties` undoes the false bursts of a coarse clock: order stays, single requests stay, seeds decide."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces import BadInput, make_trace


def test_ties_spread_uniformly_over_the_tick() -> None:
    trace = make_trace(np.repeat(np.arange(100.0), 50), np.arange(1, 5001), 1, source="file.csv").jitter_ties(1.0, seed=3)
    within = trace.arrival_s % 1
    assert within.mean() == pytest.approx(0.5, abs=0.02)
    assert np.histogram(within, 4, (0, 1))[0] == pytest.approx(1250, rel=0.1)
    assert len(np.unique(trace.arrival_s)) == 5000
    assert (np.floor(trace.arrival_s) == np.repeat(np.arange(100.0), 50)).all()
    assert (trace.input_tokens == np.arange(1, 5001)).all()
    assert trace.source == "file.csv --jitter-ties 1 --seed 3"


def test_single_requests_stay_where_they_are() -> None:
    trace = make_trace([0, 2, 2, 5], 1, 1).jitter_ties(1.0)
    assert trace.arrival_s[[0, 3]].tolist() == [0, 5]
    assert 2 < trace.arrival_s[1] < trace.arrival_s[2] < 3


def test_nobody_overtakes_the_next_time_stamp() -> None:
    trace = make_trace([0, 0, 0, 0.25, 9, 9], 1, 1).jitter_ties(3.0)
    assert trace.arrival_s[2] < 0.25 == trace.arrival_s[3]
    assert trace.arrival_s[-1] < 12


def test_seeds_decide() -> None:
    trace = make_trace([0.0] * 9, 1, 1)
    assert trace.jitter_ties(1.0, seed=1).arrival_s.tolist() == trace.jitter_ties(1.0, seed=1).arrival_s.tolist()
    assert trace.jitter_ties(1.0, seed=1).arrival_s.tolist() != trace.jitter_ties(1.0, seed=2).arrival_s.tolist()
    with pytest.raises(ValueError, match="read-only"):
        trace.jitter_ties(1.0).arrival_s[0] = 5


@pytest.mark.parametrize(("wrong", "option"), [
    ({"seconds": 0}, "--jitter-ties"), ({"seconds": -1}, "--jitter-ties"), ({"seconds": nan}, "--jitter-ties"),
    ({"seconds": inf}, "--jitter-ties"), ({"seconds": "1"}, "--jitter-ties"), ({"seconds": 1.0, "seed": -1}, "--seed"),
])
def test_impossible_jitter_names_the_option(wrong: dict[str, Any], option: str) -> None:
    with pytest.raises(BadInput) as caught:
        make_trace([0, 0], 1, 1).jitter_ties(**wrong)
    assert caught.value.what == option


@given(stamps=st.lists(st.integers(0, 5) | st.floats(0, 1e6), min_size=1, max_size=30), seconds=st.floats(1e-9, 1e6),
       seed=st.integers(0, 2**32))
def test_any_jitter_keeps_the_order(stamps: list[float], seconds: float, seed: int) -> None:
    before = make_trace(stamps, range(1, len(stamps) + 1), 1)
    after = before.jitter_ties(seconds, seed)
    assert (np.diff(after.arrival_s) >= 0).all()
    assert (after.arrival_s >= before.arrival_s).all()
    assert (after.arrival_s <= before.arrival_s + seconds).all()
    assert (after.input_tokens == before.input_tokens).all()
    _, where = np.unique(before.arrival_s, return_inverse=True)
    for later in range(1, where.max() + 1):
        assert after.arrival_s[where == later - 1].max() <= after.arrival_s[where == later].min()
