"""The latency model: what more costs, what a run of decode steps adds up to, what it refuses."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
from builders import EVEN, FAST, SLOW
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.latency import LatencyModel

work = st.tuples(*[st.integers(0, 100_000)] * 4)     # tokens, KV, pairs, requests


@settings(max_examples=200, deadline=None)
@given(model=st.sampled_from([FAST, SLOW, EVEN]), step=work, more=work)
def test_more_work_never_takes_less_time(model: LatencyModel, step: tuple[int, ...], more: tuple[int, ...]) -> None:
    bigger = [a + b for a, b in zip(step, more)]
    assert 0 < model.step_s(*step) <= model.step_s(*bigger)


def test_each_term_counts() -> None:
    base = FAST.step_s(100, 1000, 1000.0, 10)
    for more in ((200, 1000, 1000.0, 10), (100, 2000, 1000.0, 10), (100, 1000, 2000.0, 10), (100, 1000, 1000.0, 20)):
        assert FAST.step_s(*more) > base
    assert replace(FAST, host_s=FAST.host_s + 1e-3).step_s(100, 1000, 1000.0, 10) == pytest.approx(base + 1e-3)


def test_the_knee_joins_two_straight_lines() -> None:
    """Far below it a step reads the weights, far above it computes; in between it takes at least the longer of both."""
    model = LatencyModel(weights_s=0.01, token_s=1e-4, kv_token_s=0, pair_s=0, seq_s=0, knee=8.0)
    assert model.step_s(1, 0, 0, 1) == pytest.approx(0.01, rel=1e-6)
    assert model.step_s(1000, 0, 0, 1) == pytest.approx(0.1, rel=1e-6)
    assert model.step_s(100, 0, 0, 1) == pytest.approx(0.01 * 2 ** (1 / 8))


@settings(max_examples=100, deadline=None)
@given(model=st.sampled_from([FAST, SLOW]), start_s=st.floats(0, 1e4), seqs=st.integers(1, 500), kv=st.integers(0, 10**6),
       steps=st.integers(1, 1500))
def test_a_run_is_one_step_after_the_other(model: LatencyModel, start_s: float, seqs: int, kv: int, steps: int) -> None:
    now, expected = start_s, []
    for step in range(steps):
        now += model.step_s(seqs, kv + step * seqs, 0.0, seqs)
        expected.append(now)
    ends = model.decode_ends_s(start_s, seqs, model.step_s(seqs, float(kv), 0.0, seqs), steps)
    np.testing.assert_allclose(ends, expected, rtol=1e-12, atol=1e-12)
    assert (np.diff(ends, prepend=start_s) > 0).all()


@pytest.mark.parametrize(("name", "value"), [("weights_s", -1.0), ("token_s", nan), ("kv_token_s", inf), ("pair_s", -1e-9),
                                             ("seq_s", nan), ("host_s", -1.0), ("knee", 0.5), ("knee", nan)])
def test_impossible_coefficients_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        replace(FAST, **{name: value})


def test_a_step_that_takes_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="no time"):
        LatencyModel(0.0, 0.0, 1e-6, 0.0, 0.0, 2.0)
