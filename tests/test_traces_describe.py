"""What is measured of a trace: against hand counts, against SciPy, and against the figures published for the real ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.cli_gap_fits import gap_fits
from traces import Trace, generate, load_trace, make_trace
from traces.describe import describe, spearman


def test_rate_cv_and_ties_by_hand() -> None:
    said = describe(make_trace([10, 11, 11, 14], [1, 2, 3, 4], [4, 3, 2, 1]))
    assert (said["requests"], said["span_s"]) == (4, 4.0)
    assert said["rate_per_s"] == 0.75
    assert said["tied_gap_share"] == pytest.approx(1 / 3)
    assert said["gap_cv"] == pytest.approx(np.std([1, 0, 3]) / (4 / 3))
    assert said["input_output_spearman"] == pytest.approx(-1)
    assert said["gap_cv_per_300s"] is None
    assert said["peak_to_mean"] == {"1s": pytest.approx(2 / (3 / 4)), "10s": None, "60s": None}, "the last second is not whole"
    assert said["busiest_1200s"] is None
    assert said["consume_tps"] is None


def test_no_peak_over_one_or_two_bins() -> None:
    assert describe(make_trace([0, 30, 85], 1, 1))["peak_to_mean"]["60s"] is None
    assert describe(make_trace([0, 30, 125], 1, 1))["peak_to_mean"] == {"1s": pytest.approx(62.5), "10s": 6.0, "60s": None}


@given(at_s=st.lists(st.floats(0, 500), min_size=1, max_size=20))
def test_a_peak_is_not_below_the_mean(at_s: list[float]) -> None:
    for peak in describe(make_trace(at_s, 1, 1))["peak_to_mean"].values():
        assert peak is None or peak >= 1


def test_lengths_and_rates() -> None:
    said = describe(make_trace(range(101), range(100, 201), 7, consume_tps=[np.nan, *range(1, 101)]))
    assert said["input_tokens"] == {"p5": 105, "p25": 125, "p50": 150, "p75": 175, "p90": 190, "p95": 195, "p99": 199, "max": 200,
                                    "mean": 150}
    assert said["input_output_spearman"] is None
    assert said["consume_tps"]["given"] == 100
    assert said["consume_tps"]["mean"] == 50.5


def test_the_busiest_stretch_is_found() -> None:
    at_s = [*range(0, 5000, 50), *range(2005, 3205, 10)]
    said = describe(make_trace(at_s, 3, 5))["busiest_1200s"]
    assert (said["start_s"], said["end_s"], said["requests"]) == (2000.0, 3200.0, 24 + 120)
    assert said["output_tokens_per_s"] == 144 * 5 / 1200


def test_windows_have_their_own_cv() -> None:
    even, uneven = np.arange(0, 300, 5.0), 300 + 5 * np.repeat(np.arange(0, 60, 2), 2)
    said = describe(make_trace(np.concatenate([even, uneven]), 1, 1))["gap_cv_per_300s"]
    assert (said["least"], said["windows"]) == (0.0, 2)
    assert said["most"] == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("trace", [make_trace(0, 1, 1), make_trace([5, 5, 5], 1, 1), make_trace([1e15, 2e15], 1, 1), generate(3)])
def test_small_and_odd_traces_are_described(trace: Trace) -> None:
    said = describe(trace) | {"gap_fits": gap_fits(np.diff(trace.arrival_s))}
    assert said["gap_fits"] is None
    json.dumps(said, allow_nan=False)


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=2, max_size=30))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    one, other = np.array(pairs).T
    mine = spearman(one, other)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert mine is None
    else:
        assert mine == pytest.approx(scipy.stats.spearmanr(one, other).statistic)


@pytest.mark.parametrize(("law", "shape"), [("gamma", 0.5), ("weibull", 0.6), ("weibull", 3.0)])
def test_the_law_of_the_gaps_is_found(law: str, shape: float) -> None:
    gaps = np.diff(generate(20_000, arrival=law, request_rate=4.0, burstiness=shape, seed=1).arrival_s, prepend=0.0)
    fits = gap_fits(gaps)
    assert fits is not None
    assert next(iter(fits)) == law
    assert fits[law]["shape"] == pytest.approx(shape, rel=0.03)
    kstest = scipy.stats.kstest(gaps / gaps.mean(), "expon")
    assert fits["exponential"]["ks"] == pytest.approx(kstest.statistic)
    a, _, scale = scipy.stats.gamma.fit(gaps, floc=0)
    assert fits["gamma"]["shape"] == pytest.approx(a, rel=1e-6)
    assert fits["gamma"]["ks"] == pytest.approx(scipy.stats.kstest(gaps, "gamma", (a, 0, scale)).statistic, rel=1e-6)
    assert fits["weibull"]["shape"] == pytest.approx(scipy.stats.weibull_min.fit(gaps, floc=0)[0], rel=1e-3)


@given(gaps=st.lists(st.floats(0, 1e12) | st.sampled_from([1.0, 1 + 1e-12, 1e-300]), min_size=20, max_size=60))
@settings(deadline=None)
def test_any_gaps_are_fitted_or_left(gaps: list[float]) -> None:
    fits = gap_fits(np.array(gaps))
    for fit in (fits or {}).values():
        assert 0 <= fit["ks"] <= 1
        assert np.isfinite(fit["shape"])


def published(name: str) -> Trace:
    root = os.environ.get("TOKENFLOW_DATA")
    path = Path(root or "/nowhere", "traces", name)
    if not path.exists():
        pytest.skip(f"TOKENFLOW_DATA has no traces/{name}" if root else "TOKENFLOW_DATA is not set")
    return load_trace(path)


@pytest.mark.parametrize(("name", "rate", "cv", "best", "shape", "ks", "peaks"), [
    ("azure_2023_conv.csv.gz", 5.53, 1.09, "weibull", 0.922, 0.017, (2.9, 1.8, 1.5)),
    ("mooncake_fast25_synthetic.csv.gz", 3.91, 1.01, "exponential", 1.0, 0.011, (3.3, 1.4, 1.2)),
    ("servegen_deepseek-r1_1h_x0.25_seed7.csv.gz", 9.13, 1.28, "gamma", 0.633, 0.012, (5.8, 1.9, 1.4)),
    ("servegen_m-large_1h_x0.02_seed7.csv.gz", 5.59, 1.97, "weibull", 0.636, 0.022, (7.7, 2.3, 2.1)),
])
def test_arrivals_of_real_traces(
    name: str, rate: float, cv: float, best: str, shape: float, ks: float, peaks: tuple[float, ...]
) -> None:
    trace = published(name)
    said, fits = describe(trace), gap_fits(np.diff(trace.arrival_s))
    assert said["rate_per_s"] == pytest.approx(rate, abs=0.01)
    assert said["gap_cv"] == pytest.approx(cv, abs=0.01)
    assert fits is not None
    assert next(iter(fits)) == best
    assert fits[best]["shape"] == pytest.approx(shape, abs=0.002)
    assert fits[best]["ks"] == pytest.approx(ks, abs=0.001)
    assert tuple(said["peak_to_mean"].values()) == pytest.approx(peaks, abs=0.06)


def test_the_azure_conversations_as_published() -> None:
    said = describe(published("azure_2023_conv.csv.gz"))
    window = said["gap_cv_per_300s"]
    assert (round(window["median"], 2), round(window["least"], 2), round(window["most"], 2)) == (1.04, 0.99, 1.20)
    busiest = said["busiest_1200s"]
    assert (busiest["start_s"], busiest["requests"]) == (1110, 8264)
    assert (round(busiest["output_tokens_per_s"]), round(busiest["input_tokens_per_s"])) == (1127, 8545)
    assert [round(value) for value in said["input_tokens"].values()] == [181, 396, 1020, 1189, 2734, 4083, 4142, 14050, 1155]
    assert [round(value) for value in said["output_tokens"].values()] == [41, 85, 129, 395, 424, 451, 601, 1000, 211]
    assert said["input_output_spearman"] == pytest.approx(0.07, abs=0.005)
