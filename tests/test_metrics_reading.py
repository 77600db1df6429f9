"""The reader in a token buffer: every figure against a walk over the tokens in exact arithmetic, and closed forms."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.reading import playback, read, token_weights
from sim.records import Records

RATES = [Fraction(1, 2), Fraction(1), Fraction(3), Fraction(5), Fraction(16), Fraction(20), Fraction(1000)]


def walk(times: list[Fraction], rate: Fraction, length: int) -> tuple[list[int], list[Fraction], list[Fraction]]:
    """Unread tokens just before each token, the stall that it ends, and its weight: token by token, as the words say."""
    taken: list[Fraction] = []
    unread, stalls, weights = [], [], []
    for time in times:
        unread.append(sum(1 for before in taken if before > time))
        due = taken[-1] + 1 / rate if taken else time
        stalls.append(max(time - due, Fraction(0)))
        taken.append(max(time, due))
        share = Fraction(unread[-1], length)
        weights.append(min(max(2 - 10 * share, Fraction(0)), Fraction(1)))
    return unread, stalls, weights


@st.composite
def deliveries(draw: st.DrawFn) -> list[Fraction]:
    """Token times on a grid: of 1/64 s, which floats hold exactly, or of 1/10 s, which they do not; tokens may come together."""
    gaps = draw(st.lists(st.integers(0, 200) | st.sampled_from([0, 1, 4, 10, 64]), min_size=1, max_size=60))
    start, grid = draw(st.integers(0, 64_000)), draw(st.sampled_from([64, 10]))
    return [Fraction(start + sum(gaps[: i + 1]), grid) for i in range(len(gaps))]


def of_token_times(times: list[list[Fraction]] | list[list[float]] | list[np.ndarray], **given: object) -> Records:
    return Records.of_token_times([0.0] * len(times), [np.array([float(t) for t in one]) for one in times], **given)  # type: ignore[arg-type]


@given(st.lists(st.tuples(deliveries(), st.sampled_from(RATES), st.integers(0, 40)), min_size=1, max_size=5))
def test_reading_is_the_walk(requests: list[tuple[list[Fraction], Fraction, int]]) -> None:
    records = of_token_times([times for times, _, _ in requests])
    rates = np.array([float(rate) for _, rate, _ in requests])
    lengths = np.array([len(times) + more for times, _, more in requests])
    reading = read(records, rates, lengths, np.arange(len(requests)))
    for id, (times, rate, more) in enumerate(requests):
        _, stalls, weights = walk(times, rate, len(times) + more)
        assert reading.rebuffer_s[id] == pytest.approx(float(sum(stalls)), abs=1e-9)
        assert reading.rebuffers[id] == sum(stall > 0 for stall in stalls)
        assert reading.effective_tokens[id] == pytest.approx(float(sum(weights)), abs=1e-9)


@given(deliveries(), st.sampled_from(RATES), st.integers(0, 5))
def test_buffer_before_every_token_is_counted_exactly(times: list[Fraction], rate: Fraction, padding: int) -> None:
    since_first = [float(time - times[0]) for time in times] + [-np.inf] * padding
    unread = playback(np.array([since_first]), np.array([float(rate)])).unread
    counted, _, weights = walk(times, rate, len(times))
    assert unread[0, : len(times) - 1].tolist() == counted[1:]
    found = token_weights(unread, np.array([len(times)]))
    assert found[0, : len(times) - 1] == pytest.approx([float(weight) for weight in weights[1:]])
    assert not found[0, len(times) - 1 :].any(), "padding is nobody's token"


@given(st.lists(st.tuples(deliveries(), st.sampled_from(RATES)), min_size=1, max_size=5))
def test_every_take_up_is_the_walks(requests: list[tuple[list[Fraction], Fraction]]) -> None:
    """c_j = t_1 + stalled + j/r, for whoever ever waits; the others read at their rate from the first token on."""
    longest = max(len(times) for times, _ in requests)
    padded = np.full((len(requests), longest), -np.inf)
    for row, (times, _) in zip(padded, requests):
        row[: len(times)] = [float(time - times[0]) for time in times]
    played = playback(padded, np.array([float(rate) for _, rate in requests]))
    stalled_s = np.zeros((len(requests), longest))
    stalled_s[played.waits] = played.stalled_s
    for row, (times, rate) in zip(stalled_s, requests):
        taken = [times[0]]
        for time in times[1:]:
            taken.append(max(time, taken[-1] + 1 / rate))
        found = (row + np.arange(longest) / float(rate))[: len(times)]
        assert found == pytest.approx([float(at - times[0]) for at in taken], abs=1e-9)
        assert (row[len(times) :] == row[len(times) - 1]).all(), "after the last token: the total"


@given(st.lists(st.floats(0, 1e-1), min_size=2, max_size=50), st.floats(0.1, 1e3), st.floats(0, 1e6))
def test_reading_any_floats(gaps: list[float], rate: float, start: float) -> None:
    times = start + np.cumsum(gaps)
    reading = read(of_token_times([times]), np.array([rate]), np.array([len(times)]), np.array([0]))
    _, stalls, _ = walk([Fraction(float(time)) for time in times], Fraction(rate), len(times))
    assert reading.rebuffer_s[0] == pytest.approx(float(sum(stalls)), abs=1e-7)
    assert 1 <= reading.effective_tokens[0] <= len(times)


def test_a_token_taken_up_this_instant_is_read() -> None:
    """Five tokens every 0.1 s, read at 20/s: at each delivery a token falls due, and floats miss that instant by a hair."""
    times = [Fraction(12_345 + i // 5, 10) for i in range(100)]
    counted, _, weights = walk(times, Fraction(20), 100)
    since_first = np.array([[float(time) - 1234.5 for time in times]])
    unread = playback(since_first, np.array([20.0])).unread
    assert unread[0].tolist() == counted[1:]
    reading = read(of_token_times([times]), np.array([20.0]), np.array([100]), np.array([0]))
    assert reading.effective_tokens[0] == pytest.approx(float(sum(weights)), abs=1e-9)


def test_one_stall_between_two_thresholds() -> None:
    """Due at 1.0 s, there half a nanosecond late: no stall; two nanoseconds late: one."""
    for late_s, stalls in ((0.5e-9, 0), (2e-9, 1)):
        reading = read(of_token_times([[0.0, 1.0 + late_s]]), np.array([1.0]), np.array([2]), np.array([0]))
        assert reading.rebuffers[0] == stalls


@pytest.mark.parametrize(("rate", "speed", "mean"), [(20, 30, 0.45), (20, 40, 0.30), (5, 30, 0.18), (20, 25, 0.75), (20, 22, 1.0)])
def test_mean_weight_of_constant_generation(rate: int, speed: int, mean: float) -> None:
    tokens = 20_000
    times = np.arange(tokens) / speed
    reading = read(of_token_times([times]), np.array([float(rate)]), np.array([tokens]), np.array([0]))
    assert reading.effective_tokens[0] / tokens == pytest.approx(mean, abs=0.005)
    assert reading.rebuffer_s[0] == 0
    assert reading.rebuffers[0] == 0


def test_nobody_reads_along() -> None:
    reading = read(of_token_times([[1.0, 2.0], [1.0, 2.0]]), np.array([20.0, 20.0]), np.array([2, 2]), np.array([1]))
    assert np.isnan(reading.rebuffer_s[0])
    assert np.isnan(reading.effective_tokens[0])
    assert reading.rebuffers[0] == 0
    assert reading.effective_tokens[1] == 2


def test_every_request_is_read_whatever_the_batches() -> None:
    """Lengths from one token to more than a batch holds: the same figures as one request at a time."""
    rng = np.random.default_rng(0)
    lengths = [1, 2, 3, 70_000, 500, *rng.integers(1, 3000, 60).tolist()]
    times = [np.sort(rng.uniform(0, n / 25, n)) for n in lengths]
    rates = rng.uniform(5, 40, len(times))
    together = read(of_token_times(times), rates, np.array(lengths), np.arange(len(times)))
    for id in range(len(times)):
        alone = read(of_token_times([times[id]]), rates[id : id + 1], np.array(lengths[id : id + 1]), np.array([0]))
        assert together.rebuffer_s[id] == alone.rebuffer_s[0]
        assert together.rebuffers[id] == alone.rebuffers[0]
        assert together.effective_tokens[id] == pytest.approx(alone.effective_tokens[0], rel=1e-12)


def test_ceiling_of_the_fluid_buffer() -> None:
    """The formula that `playback` uses, on one case worked out by hand: 4 tokens at once, read at 2/s, a fifth after 0.6 s.

    Token 1 is taken up at 0, 2 at 0.5, 3 at 1.0, 4 at 1.5: at 0.6 s two are unread.
    """
    played = playback(np.array([[0.0, 0.0, 0.0, 0.0, 0.6]]), np.array([2.0]))
    assert played.unread[0].tolist() == [0, 1, 2, 2]
    assert ceil((0 - (0.6 - 4 / 2)) * 2 - 1) == 2
    assert played.rebuffer_s[0] == 0
    assert len(played.waits) == len(played.stalled_s) == 0
