"""The reader in closed form equals a reader who takes one token after the other."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import Floats
from sim import token_buffer
from traces.pace import reading_s


def deliver(read_until_s: Floats, rate: Floats, first_s: float, last_s: float, tokens: int) -> Floats:
    """One run of steps that do not shrink."""
    at, since = np.array([0.0, tokens - 1.0]), np.zeros(len(rate), np.int64)
    return token_buffer.deliver(read_until_s, rate, since, tokens, at, np.array([first_s, last_s]))


def taken(read_until_s: float, rate: float, times: list[float]) -> float:
    """When the last token is taken up: c_j = max(t_j, c_(j-1) + 1/r), token by token."""
    for time in times:
        read_until_s = max(time, read_until_s + 1 / rate)
    return read_until_s


@settings(max_examples=400, deadline=None)
@given(read_until_s=st.one_of(st.just(-inf), st.floats(-5, 50)), rate=st.floats(0.5, 200), first_s=st.floats(0, 20),
       gap_s=st.floats(1e-4, 0.5), growth_s=st.floats(0, 0.05), tokens=st.integers(1, 60))
def test_deliver_equals_brute_force(read_until_s: float, rate: float, first_s: float, gap_s: float, growth_s: float,
                                    tokens: int) -> None:
    """Any buffer, any reader, any run whose steps do not shrink."""
    times = first_s + np.cumsum([0.0] + [gap_s + i * growth_s for i in range(tokens - 1)])
    until = deliver(np.array([read_until_s]), np.array([rate]), times[0], times[-1], tokens)
    assert until[0] == pytest.approx(taken(read_until_s, rate, times.tolist()), abs=1e-9)


def test_a_run_may_be_cut_anywhere() -> None:
    times = np.cumsum(np.linspace(0.01, 0.2, 40))
    readers = np.array([3.0, 9.0, 20.0, 90.0])
    whole = deliver(np.array([-inf, 0.0, 1.0, 5.0]), readers, times[0], times[-1], 40)
    for cut in range(1, 40):
        half = deliver(np.array([-inf, 0.0, 1.0, 5.0]), readers, times[0], times[cut - 1], cut)
        np.testing.assert_allclose(deliver(half, readers, times[cut], times[-1], 40 - cut), whole, rtol=0, atol=1e-12)


def test_first_token_is_taken_at_once() -> None:
    assert deliver(np.array([-inf]), np.array([20.0]), 3.0, 3.0, 1)[0] == pytest.approx(3.0)


def test_a_reader_who_is_behind_reads_at_its_rate() -> None:
    """1,000 tokens within a second: the reader is through 100 seconds later, the generation does not matter."""
    until = deliver(np.array([10.0]), np.array([10.0]), 0.001, 1.0, 1000)
    assert until[0] == pytest.approx(110.0)


def test_several_runs_and_readers_who_join_between_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        runs = [np.sort(rng.uniform(0.001, 0.3, rng.integers(1, 9))) for _ in range(rng.integers(1, 6))]
        ends = np.concatenate(runs).cumsum()
        starts = np.cumsum([0] + [len(run) for run in runs])
        at = np.unique(np.concatenate((starts[:-1], starts[1:] - 1)))
        since = rng.choice(starts[:-1], 7)
        before, rate = rng.uniform(-2, 5, 7), rng.uniform(1, 60, 7)
        until = token_buffer.deliver(before, rate, since, len(ends), at.astype(float), ends[at])
        expected = [taken(c, r, ends[s:].tolist()) for c, r, s in zip(before.tolist(), rate.tolist(), since.tolist())]
        np.testing.assert_allclose(until, expected, rtol=0, atol=1e-9)


@settings(max_examples=300, deadline=None)
@given(gaps_s=st.lists(st.floats(1e-4, 2.0), max_size=40), rate=st.floats(0.5, 50), later=st.floats(0.5, 50),
       change=st.integers(1, 50))
def test_reading_along_token_by_token(gaps_s: list[float], rate: float, later: float, change: int) -> None:
    times = np.cumsum(gaps_s)
    expected, stalls, free_s = [], [], inf
    for token, time in enumerate(times.tolist()):
        if time > free_s + 1e-8:
            stalls.append((free_s, time))
        expected.append(time if free_s == inf else max(time, free_s))
        free_s = expected[-1] + 1 / (rate if token < change else later)
    taken_s, seen = token_buffer.read_along(times, reading_s(rate, ((change, later),), len(times)))
    assert taken_s == pytest.approx(np.array(expected), abs=1e-9)
    assert seen[np.diff(seen)[:, 0] > 1e-8].ravel() == pytest.approx(np.ravel(stalls), abs=1e-9)
