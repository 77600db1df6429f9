"""Lost fluency, against what is taken up in every window there is, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.metrics import per_request, serving_summary
from sim.reading import read
from sim.records import Fate, Records
from traces import make_trace

Case = tuple[list[Fraction], Fraction]


def walk(times: list[Fraction], rate: Fraction) -> bool:
    """Whether a window of 1 s within [first token, last token] has less than 0.7 of a second's reading in it.

    Reading is piecewise linear, so its least lies where a window begins or ends with a token's take-up. Shorter answers have no
    window: there, what counts is what is missed in all.
    """
    begins: list[Fraction] = []
    for time in times:
        begins.append(max(time, begins[-1] + 1 / rate if begins else time))
    ends = [begin + 1 / rate for begin in begins]
    span = times[-1] - times[0]
    if span < 1:
        stalls = [begin - end for begin, end in zip(begins[1:], ends)]
        return sum(stalls) > Fraction(3, 10)

    def read_in(start: Fraction) -> Fraction:
        parts = (min(end, start + 1) - max(begin, start) for begin, end in zip(begins, ends))
        return sum((max(part, Fraction(0)) for part in parts), Fraction(0)) * rate

    starts = {start for edge in (*begins, *ends) for start in (edge, edge - 1) if times[0] <= start <= times[-1] - 1}
    return any(read_in(start) < Fraction(7, 10) * rate for start in (*starts, times[0], times[-1] - 1))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Gaps about the time that a token takes to read, so that many small stalls and few large ones both come up."""
    gaps = draw(st.lists(st.integers(0, 12) | st.sampled_from([0, 6, 6, 7, 30]), min_size=1, max_size=60))
    grid = draw(st.sampled_from([64, 50, 10]))
    times = [Fraction(sum(gaps[: i + 1]), grid) for i in range(len(gaps))]
    return times, draw(st.sampled_from([Fraction(1, 2), Fraction(4), Fraction(9, 2), Fraction(10), Fraction(20)]))


def found(requests: list[Case], start_s: float = 3.0) -> list[bool]:
    token_times_s = [np.array([start_s + float(t) for t in times]) for times, _ in requests]
    records = Records.of_token_times([0.0] * len(requests), token_times_s)
    rates = np.array([float(rate) for _, rate in requests])
    lost: list[bool] = read(records, rates, records.tokens, np.arange(len(requests))).lost_fluency.tolist()
    return lost


@given(st.lists(cases(), min_size=1, max_size=6))
def test_every_window_is_looked_at(requests: list[Case]) -> None:
    assert found(requests) == [walk(*one) for one in requests]


def paced(gaps: list[float]) -> Case:
    return [Fraction(0), *(Fraction(repr(t)) for t in np.cumsum(gaps).round(6).tolist())], Fraction(20)


@pytest.mark.parametrize(("gaps", "lost"), [
    ([0.05] * 40, False),                                   # at the reader's rate
    ([1 / 15] * 40, False),                                 # at 0.75 of it, all the time
    ([1 / 13] * 40, True),                                  # at 0.65
    ([0.05] * 20 + [0.35] + [0.05] * 20, False),            # empty for 0.30 s, exactly
    ([0.05] * 20 + [0.36] + [0.05] * 20, True),
    ([0.05] * 4 + [0.25] + [0.05] * 14 + [0.25], False),    # 0.2 s each: with the second, a quarter of the first
    ([0.05] * 4 + [0.25] + [0.05] * 12 + [0.25], True),     # three quarters of it
    (([0.05] * 4 + [0.25]) * 2 + [0.05] * 20, True),        # 0.2 s each, 0.4 s apart
    ([0.05] * 4 + [0.25] + [0.05] * 20 + [0.25], False),    # 0.2 s each, 1 s apart
    ([0.0] * 20 + [0.9], False),                            # a silence that the buffer covers
    ([0.6], True),                                          # an answer shorter than the window
    ([0.3], False),
])
def test_by_hand(gaps: list[float], lost: bool) -> None:
    assert found([paced(gaps)]) == [lost]


def test_many_requests_at_once() -> None:
    """Batches, and rows side by side within one, do not mix."""
    rng = np.random.default_rng(2)
    requests = [paced(rng.choice([0.02, 0.05, 0.07, 0.3], n, p=[0.5, 0.3, 0.15, 0.05]).tolist()) for n in rng.integers(0, 900, 150)]
    alone = [found([one])[0] for one in requests]
    assert found(requests) == alone
    assert 10 < sum(alone) < 140


def test_stalls_of_two_readers_are_not_added_up() -> None:
    """Their answers begin and end with 0.2 s of silence each."""
    assert found([paced([0.25] + [0.05] * 40 + [0.25])] * 2) == [False, False]


def test_share_of_completed_requests_that_someone_reads() -> None:
    trace = make_trace([0.0] * 4, 1, 3, reader=[True, True, False, True])
    calm, halting = np.array([1.0, 1.05, 1.1]), np.array([1.0, 2.0, 3.0])
    records = Records.of_token_times([0.0] * 4, [calm, halting, halting, halting])
    records.fate[3] = Fate.UNFINISHED
    rates = np.full(4, 20.0)
    requests = per_request(trace, rates, records)
    assert requests.reading.lost_fluency.tolist() == [False, True, False, True]
    assert serving_summary(trace, rates, records, requests, 3.0)["lost_fluency_share"] == 0.5
