"""Readers whose rate changes along the answer: every figure of theirs against a walk over the tokens in exact arithmetic."""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import simulate
from sim.metrics import PerRequest, per_request, serving_summary
from sim.records import Records
from traces import make_trace
from traces.pace import Pace

Case = tuple[list[Fraction], list[Fraction]]       # times of tokens, and how long reading each of them takes


def taken_up(times: list[Fraction], gaps: list[Fraction], begin: Fraction) -> list[Fraction]:
    """Each token when it is there and the one before is read, the first not before `begin`."""
    taken: list[Fraction] = []
    for i, time in enumerate(times):
        taken.append(max(time, taken[-1] + gaps[i - 1] if taken else begin))
    return taken


def stalls(times: list[Fraction], gaps: list[Fraction]) -> list[Fraction]:
    taken = taken_up(times, gaps, times[0])
    return [after - before - gap for before, after, gap in zip(taken, taken[1:], gaps)]


def weight(times: list[Fraction], gaps: list[Fraction], length: int) -> Fraction:
    taken = taken_up(times, gaps, times[0])
    unread = [sum(before > time for before in taken[:i]) for i, time in enumerate(times)]
    return sum((min(max(2 - 10 * Fraction(n, length), Fraction(0)), Fraction(1)) for n in unread), Fraction(0))


def area(begins: list[Fraction], gaps: list[Fraction], until: Fraction) -> Fraction:
    return sum((until - begin - gap / 2 for begin, gap in zip(begins, gaps)), Fraction(0))


def qoe(times: list[Fraction], gaps: list[Fraction], expected: Fraction) -> Fraction:
    """Ratio of the areas under the actual and the expected curve of tokens read, until the reader is through."""
    ideal, actual = taken_up([expected] * len(times), gaps, expected), taken_up(times, gaps, expected)
    end = actual[-1] + gaps[-1]
    return area(actual, gaps, end) / area(ideal, gaps, end)


def loses_fluency(times: list[Fraction], gaps: list[Fraction]) -> bool:
    """Whether the buffer is empty for more than 0.3 s of any second."""
    taken = taken_up(times, gaps, times[0])
    empty = [(before + gap, after) for before, after, gap in zip(taken, taken[1:], gaps) if after > before + gap]
    edges = {start for edge in (edge for stall in empty for edge in stall) for start in (edge, edge - 1)}

    def within(start: Fraction) -> Fraction:
        return sum((max(min(end, start + 1) - max(begin, start), Fraction(0)) for begin, end in empty), Fraction(0))
    return any(within(start) > Fraction(3, 10) for start in edges)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Fraction], Pace | float, int]:
    """Token times on a grid that floats hold or do not, some together; a pace that may change beyond the end; tokens to come."""
    gaps = draw(st.lists(st.integers(0, 12) | st.sampled_from([0, 1, 6, 30, 200]), min_size=0, max_size=50))
    start, grid = draw(st.integers(0, 300)), draw(st.sampled_from([64, 50, 10]))
    times = [Fraction(start + sum(gaps[:i]), grid) for i in range(len(gaps) + 1)]
    rates = st.sampled_from([0.5, 1.0, 4.0, 5.0, 16.0, 20.0, 1000.0])
    changes = draw(st.dictionaries(st.integers(1, 55), rates, max_size=4))
    first = draw(rates)
    return times, Pace(first, tuple(sorted(changes.items()))) if changes else first, draw(st.integers(0, 20))


def gaps_of(pace: Pace | float, tokens: int) -> list[Fraction]:
    first, changes = (pace.tps, dict(pace.changes)) if isinstance(pace, Pace) else (pace, {})
    rates = [first]
    for token in range(1, tokens):
        rates.append(changes.get(token, rates[-1]))
    return [1 / Fraction(rate) for rate in rates]


def found(requests: list[tuple[list[Fraction], Pace | float, int]]) -> PerRequest:
    records = Records.of_token_times([0.0] * len(requests), [np.array([float(t) for t in times]) for times, _, _ in requests])
    trace = make_trace([0.0] * len(requests), 1, [len(times) + more for times, _, more in requests],
                       consume_tps=[pace for _, pace, _ in requests])
    return per_request(trace, trace.consume_tps, records)


@given(st.lists(cases(), min_size=1, max_size=5))
def test_reading_is_the_walk(requests: list[tuple[list[Fraction], Pace | float, int]]) -> None:
    reading = found(requests).reading
    for id, (times, pace, more) in enumerate(requests):
        gaps = gaps_of(pace, len(times))
        waited = stalls(times, gaps)
        assert reading.rebuffer_s[id] == pytest.approx(float(sum(waited)), abs=1e-9)
        assert reading.rebuffers[id] == sum(stall > 0 for stall in waited)
        assert reading.effective_tokens[id] == pytest.approx(float(weight(times, gaps, len(times) + more)), abs=1e-9)
        assert reading.qoe[id] == pytest.approx(float(qoe(times, gaps, Fraction(1))), abs=1e-9)
        assert reading.lost_fluency[id] == loses_fluency(times, gaps)


def test_a_change_to_the_same_rate_is_none() -> None:
    rng = np.random.default_rng(1)
    requests = [([Fraction(t) for t in np.sort(rng.uniform(0, n / 20, n)).tolist()], n) for n in rng.integers(1, 400, 80).tolist()]
    plain = found([(times, 19.0, 0) for times, _ in requests]).reading
    paced = found([(times, Pace(19.0, ((n // 2 + 1, 19.0),)), 0) for times, n in requests]).reading
    for name in ("rebuffer_s", "rebuffers", "effective_tokens", "qoe", "lost_fluency"):
        np.testing.assert_allclose(getattr(paced, name), getattr(plain, name), rtol=1e-9, atol=1e-9, err_msg=name)
    assert 0 < paced.lost_fluency.mean() < 1


def test_who_reads_slower_later_waits_less() -> None:
    """10 tokens/s come, 20 are read: half of the time is stalls; from token 50 on 5 are read, and nobody waits."""
    times = [Fraction(i, 10) for i in range(100)]
    reading = found([(times, 20.0, 0), (times, Pace(20.0, ((50, 5.0),)), 0)]).reading
    assert reading.rebuffer_s.tolist() == pytest.approx([99 * 0.05, 50 * 0.05])
    assert reading.rebuffers.tolist() == [99, 50]


def test_nobody_reads_along() -> None:
    records = Records.of_token_times([0.0, 0.0], [np.array([1.0, 2.0])] * 2)
    trace = make_trace([0, 0], 1, 2, consume_tps="2/1@1", reader=[False, True])
    assert np.isnan(per_request(trace, trace.consume_tps, records).reading.rebuffer_s).tolist() == [True, False]


def test_a_second_of_waiting_costs_the_mean_rate() -> None:
    """10 tokens at 10/s and 10 at 5/s take 3 s: a second costs 20/3 of them."""
    times = [np.array([2.0, *np.full(19, 2.5)])]
    records, trace = Records.of_token_times([0.0], times), make_trace([0.0], 1, 20, consume_tps="10/5@10")
    requests = per_request(trace, trace.consume_tps, records)
    said = serving_summary(trace, trace.consume_tps, records, requests, 2.5)
    waited_s = 2.0 + 0.4
    assert said["qos"] == pytest.approx((float(requests.reading.effective_tokens[0]) - waited_s * 20 / 3) / 2.5)


def test_requests_csv_has_the_pace(tmp_path: Path) -> None:
    trace = make_trace([0, 0, 0], 10, 30, consume_tps=["30/10@20", 15, np.nan])
    result = simulate("vllm", trace, kv_tokens=4000)
    result.save(tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "requests.csv").open()))
    assert [row["consume_tps"] for row in rows] == ["30/10@20", "15.0", "20.0"]
    assert result.requests["consume_tps"].tolist() == ["30/10@20", 15.0, 20.0]


def test_a_token_taken_up_this_instant_is_read() -> None:
    """Five tokens every 0.1 s, read at 20/s and at 10/s: at each delivery a token falls due, and floats miss that by a hair."""
    times = [Fraction(12_345 + i // 5, 10) for i in range(100)]
    pace = Pace(20.0, ((30, 10.0), (50, 20.0)))
    reading = found([(times, pace, 0)]).reading
    assert reading.effective_tokens[0] == pytest.approx(float(weight(times, gaps_of(pace, 100), 100)), abs=1e-9)


@pytest.mark.parametrize(("between_s", "lost"), [(Fraction(1, 2), True), (Fraction(9, 10), False)])
def test_how_far_apart_stalls_are_is_their_own_rates_affair(between_s: Fraction, lost: bool) -> None:
    """Tokens 5 and 7 come 0.2 s late; token 6 is read for so long between them."""
    gaps = [Fraction(1, 20)] * 6 + [between_s] + [Fraction(1, 20)] * 40
    late = {5: Fraction(1, 5), 7: Fraction(1, 5)}
    times = [sum(gaps[:i], Fraction(0)) + sum((s for token, s in late.items() if token <= i), Fraction(0)) for i in range(40)]
    pace = Pace(20.0, ((6, float(1 / between_s)), (7, 20.0)))
    assert loses_fluency(times, gaps) == lost
    assert found([(times, pace, 0)]).reading.lost_fluency.tolist() == [lost]
