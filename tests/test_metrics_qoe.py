"""QoE of Andes against areas under two curves in exact arithmetic, token by token, and cases worked out by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.metrics import per_request, serving_summary
from sim.reading import read
from sim.records import Records
from traces import make_trace

ONE, TWO = Fraction(1), Fraction(2)

Case = tuple[list[Fraction], Fraction, Fraction]


def area(begins: list[Fraction], rate: Fraction, until: Fraction) -> Fraction:
    """Under the curve of tokens taken up: each one's share grows from 0 to 1 within 1/rate of its beginning."""
    return sum(((until - begin) - 1 / (2 * rate) for begin in begins), Fraction(0))


def walk(times: list[Fraction], rate: Fraction, expected: Fraction) -> Fraction:
    """Times since sending. The reader begins at the expected TTFT, or when there is something to read."""
    ideal = [expected + i / rate for i in range(len(times))]
    actual: list[Fraction] = []
    for time in times:
        actual.append(max(time, actual[-1] + 1 / rate if actual else expected))
    end = actual[-1] + 1 / rate
    whole = area(ideal, rate, end)
    return 1 - (whole - area(actual, rate, end)) / whole


@st.composite
def cases(draw: st.DrawFn) -> Case:
    gaps = draw(st.lists(st.integers(0, 200) | st.sampled_from([0, 1, 4]), min_size=1, max_size=60))
    grid = draw(st.sampled_from([64, 10]))
    times = [Fraction(sum(gaps[: i + 1]), grid) for i in range(len(gaps))]
    rate, expected = draw(st.sampled_from([ONE / 2, Fraction(3), Fraction(20)])), draw(st.sampled_from([ONE, Fraction(5, 2)]))
    return times, rate, expected


def qoe_of(requests: list[Case], sent_s: float = 0.0) -> np.ndarray:
    token_times_s = [np.array([sent_s + float(t) for t in times]) for times, _, _ in requests]
    records = Records.of_token_times([sent_s] * len(requests), token_times_s)
    rates, expected = np.array([float(rate) for _, rate, _ in requests]), np.array([float(due) for _, _, due in requests])
    return read(records, rates, records.tokens, np.arange(len(requests)), expected).qoe


@given(st.lists(cases(), min_size=1, max_size=5))
def test_qoe_is_the_ratio_of_the_areas(requests: list[Case]) -> None:
    assert qoe_of(requests).tolist() == pytest.approx([float(walk(*one)) for one in requests], abs=1e-9)


@given(cases())
def test_qoe_is_a_share(case: Case) -> None:
    assert 0 < qoe_of([case])[0] <= 1


@pytest.mark.parametrize(("times", "rate", "qoe"), [
    # in time, and more than in time
    ([1, 2, 3], ONE, 1.0),
    ([0, 0, 0], ONE, 1.0),
    ([Fraction(1, 2), 2, 3], ONE, 1.0),     # what comes early earns nothing, and the second is in time
    # all of it 2 s late: the ideal is 3 read at 4 s and then waits until 6 s, 4.5 + 2 x 3; the actual lacks 3 x 2
    ([3, 4, 5], ONE, 1 - 6 / 10.5),
    # one token, 1 s late, read within 0.5 s: of 0.5 / 2 + 1 it lacks 1
    ([2], TWO, 1 - 1 / 1.25),
    # half the reader's speed, from 1 s on: tokens 0, 1, 2 s late; until 6 s the ideal has 4.5 + 2 x 3
    ([1, 3, 5], ONE, 1 - 3 / 10.5),
])
def test_by_hand(times: list[int], rate: Fraction, qoe: float) -> None:
    assert qoe_of([([Fraction(t) for t in times], rate, ONE)], sent_s=7.0)[0] == pytest.approx(qoe)


def test_a_token_held_back_costs_more_the_longer_and_the_earlier() -> None:
    def held_back(token: int, by: int) -> Case:
        times = [Fraction(1) + Fraction(i, 2) + (by if i >= token else 0) for i in range(20)]
        return times, TWO, ONE
    longer = qoe_of([held_back(5, by) for by in (0, 1, 3, 9)])
    later = qoe_of([held_back(token, 3) for token in (0, 5, 15, 19)])
    assert longer[0] == 1
    assert (np.diff(longer) < 0).all()
    assert (np.diff(later) > 0).all()


def test_whoever_the_trace_gives_a_target_is_held_to_it() -> None:
    """Andes expects the first token within 1 s; the second request's target is 3 s. Nobody reads the third."""
    trace = make_trace([0.0, 0.0, 0.0], 1, 2, ttft_slo_s=[np.nan, 3.0, np.nan], reader=[True, True, False])
    records = Records.of_token_times([0.0] * 3, [np.array([3.0, 4.0])] * 3)
    found = per_request(trace, np.ones(3), records)
    late = 1 - 4 / (2 * 2 + 2)
    assert found.reading.qoe.tolist() == pytest.approx([late, 1.0, np.nan], nan_ok=True)
    said = serving_summary(trace, np.ones(3), records, found, 4.0)
    assert said["mean_qoe"] == pytest.approx((late + 1) / 2)
    assert said["p10_qoe"] == pytest.approx(late + (1 - late) / 10)
