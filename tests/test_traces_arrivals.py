"""Arrivals beyond vLLM's: Weibull gaps, bursts on and off, and hours like BurstGPT's."""

from __future__ import annotations

from math import gamma, inf, nan, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces import BadInput, generate
from traces.burstgpt import hourly_load


def arrivals(n: int, law: str, rate: float = 5.0, **options: Any) -> np.ndarray[Any, Any]:
    return generate(n, arrival=law, request_rate=rate, **options).arrival_s


def cv(gaps: np.ndarray[Any, Any]) -> float:
    return float(gaps.std() / gaps.mean())


def test_gamma_is_another_name_for_vllms_arrivals() -> None:
    assert arrivals(50, "gamma", burstiness=0.4).tolist() == arrivals(50, "poisson", burstiness=0.4).tolist()


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0])
def test_weibull_gaps_have_the_rate_and_the_cv_of_their_shape(shape: float) -> None:
    at_s = arrivals(40_000, "weibull", burstiness=shape, seed=3)
    assert at_s[-1] == 8000
    expected = sqrt(gamma(1 + 2 / shape) / gamma(1 + 1 / shape) ** 2 - 1)
    assert cv(np.diff(at_s, prepend=0.0)) == pytest.approx(expected, rel=0.03)


def test_weibull_gaps_follow_their_law() -> None:
    gaps = np.sort(np.diff(arrivals(20_000, "weibull", burstiness=0.6, seed=1), prepend=0.0)) * 5 * gamma(1 + 1 / 0.6)
    law = 1 - np.exp(-(gaps**0.6))
    assert np.abs(law - (np.arange(len(gaps)) + 0.5) / len(gaps)).max() < 1.36 / sqrt(len(gaps))     # Kolmogorov-Smirnov, 5%


@pytest.mark.parametrize("law", ["weibull", "onoff:1:10:10", "burstgpt"])
def test_infinite_burstiness_is_a_metronome(law: str) -> None:
    np.testing.assert_allclose(arrivals(4, law, 2.0, burstiness=inf), [0.5, 1.0, 1.5, 2.0])


def test_bursts_go_on_and_off() -> None:
    at_s = arrivals(30_000, "onoff:4:60:240", seed=2)
    assert at_s[-1] == pytest.approx(30_000 / 5)
    busy = at_s % 300 >= 240
    assert busy.mean() == pytest.approx(0.8, abs=0.01)          # a fifth of the time at four times the mean rate
    quiet = at_s[at_s < 240]
    assert len(quiet) / 240 == pytest.approx(1.25, rel=0.2)     # what is left: (1 - 0.8) / 0.8 of the mean
    within = at_s[(at_s >= 240) & (at_s < 300)]
    assert cv(np.diff(within)) == pytest.approx(1.0, abs=0.1)


def test_between_the_sharpest_bursts_there_is_silence() -> None:
    at_s = arrivals(5000, "onoff:5:60:240")
    assert (at_s % 300 >= 240).all()
    assert len(np.unique(at_s // 300)) == 4


def test_a_flat_burst_is_vllms_arrivals() -> None:
    np.testing.assert_allclose(arrivals(500, "onoff:1:30:60", burstiness=0.5), arrivals(500, "poisson", burstiness=0.5), rtol=1e-12)


def test_within_an_hour_burstgpt_is_its_authors_generator() -> None:
    at_s = arrivals(3000, "burstgpt", 2.0, seed=4)
    assert at_s[-1] == 1500
    np.testing.assert_allclose(at_s, arrivals(3000, "gamma", 2.0, burstiness=0.25, seed=4), rtol=1e-9)
    assert cv(np.diff(at_s, prepend=0.0)) == pytest.approx(2.0, rel=0.1)


def test_burstgpts_hours_are_as_uneven_as_published() -> None:
    hours, each = 1464, 100             # 61 days, as BurstGPT_1
    cvs, p95, peak, top = [], [], [], []
    for seed in range(40):
        even = np.arange(1, hours * each + 1) / (hours * each)
        at_s = hourly_load(np.random.default_rng(seed), even, hours * 3600.0)
        load = np.sort(np.bincount(np.minimum(at_s // 3600, hours - 1).astype(int), minlength=hours) / each)
        cvs.append(cv(load))
        p95.append(np.percentile(load, 95))
        peak.append(load[-1])
        top.append(load[-14:].sum() / load.sum())
    assert np.median(cvs) == pytest.approx(2.3, rel=0.15)       # fitted
    assert np.median(p95) == pytest.approx(4.25, rel=0.2)       # what follows was not: 4,150 / 977
    assert min(peak) < 34 < max(peak)
    assert np.median(top) == pytest.approx(0.17, abs=0.03)


def test_burstgpt_brings_its_lengths() -> None:
    trace = generate(60_000, arrival="burstgpt", request_rate=2.0, seed=9)
    for tokens, published, mean in ((trace.input_tokens, (74, 1291, 1697, 3023), 374),
                                    (trace.output_tokens, (14, 401, 510, 757), 122)):
        np.testing.assert_allclose(np.percentile(tokens, [50, 90, 95]), published[:3], rtol=0.06)
        assert (tokens <= published[3]).mean() == pytest.approx(0.99, abs=0.002)
        assert tokens.mean() == pytest.approx(mean, rel=0.06)
    assert (trace.input_tokens.max(), trace.output_tokens.max()) <= (6142, 7315)
    assert "--burstiness 0.25 --input-len burstgpt-request --output-len burstgpt-response" in trace.source
    assert set(generate(9, arrival="burstgpt", request_rate=2.0, input_len=7).input_tokens.tolist()) == {7}


@pytest.mark.parametrize(("options", "option", "phrase"), [
    ({"arrival": "onoff"}, "--arrival", "'onoff': must be written onoff:PEAK:ON_S:OFF_S"),
    ({"arrival": "onoff:4:60"}, "--arrival", "must be written onoff:PEAK:ON_S:OFF_S"),
    ({"arrival": "weibull:0.5"}, "--arrival", "must be written weibull"),
    ({"arrival": "onoff:0:60:60"}, "--arrival", "'0' must be above 0"),
    ({"arrival": "onoff:x:60:60"}, "--arrival", "'x' is not a number"),
    ({"arrival": "onoff:2:60:nan"}, "--arrival", "'nan' is NaN"),
    ({"arrival": "onoff:0.5:60:60"}, "--arrival", "PEAK must lie between 1 and (ON_S + OFF_S) / ON_S, 2"),
    ({"arrival": "onoff:2.1:60:60"}, "--arrival", "PEAK must lie between 1"),
    ({"arrival": "weibull", "burstiness": 1e-5}, "--burstiness", "gaps overflow"),
    ({"arrival": "weibull", "burstiness": nan}, "--burstiness", "above 0"),
    ({"arrival": "burstgpt", "request_rate": 1e-12}, "--request-rate", "outlasts 1000000 hours"),
    ({"arrival": "onoff:2:60:60", "request_rate": 1e-300}, "--request-rate", "beyond 2**53 s"),
    ({"arrival": "burstgpt", "request_rate": None}, "--request-rate", "--arrival burstgpt needs one"),
])
def test_impossible_options_are_named(options: dict[str, Any], option: str, phrase: str) -> None:
    with pytest.raises(BadInput) as caught:
        generate(**{"num_prompts": 100, "request_rate": 2.0, **options})
    assert caught.value.what == option
    assert phrase in str(caught.value)
    assert str(caught.value).splitlines() == [str(caught.value)]


laws = st.sampled_from(["weibull", "burstgpt"]) | st.builds(
    lambda share, on_s, off_s: f"onoff:{1 + share * 0.999 * off_s / on_s!r}:{on_s!r}:{off_s!r}",
    st.floats(0, 1), st.floats(0.01, 1e4), st.floats(0.01, 1e4))


@given(law=laws, n=st.integers(1, 200), rate=st.floats(1e-3, 1e4), burstiness=st.floats(0.1, 100) | st.just(inf),
       seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_any_trace_is_in_order_and_lasts_as_its_rate_says(law: str, n: int, rate: float, burstiness: float, seed: int) -> None:
    trace = generate(n, arrival=law, request_rate=rate, burstiness=burstiness, seed=seed)
    assert (np.diff(trace.arrival_s, prepend=0.0) >= 0).all()
    period_s = sum(map(float, law.split(":")[2:]))              # a part of one may be busier or quieter than the whole
    assert abs(trace.arrival_s[-1] - n / rate) <= period_s + 1e-9 * n / rate
