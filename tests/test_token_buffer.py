"""The reader in closed form equals a reader who takes one token after the other."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.token_buffer import deliver


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
