"""Synthetic traces: arrivals as vLLM draws them, lengths within their clip, one random stream per purpose."""

from __future__ import annotations

from math import inf, nan, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces import BadInput, generate
from traces.arrivals import gamma_arrivals_s
from traces.lengths import Constant, Normal, parse_lengths


def test_a_burst_comes_at_once() -> None:
    trace = generate(200, input_len=512, output_len="constant:1024", consume_rate=20)
    assert len(trace) == 200
    assert (trace.arrival_s == 0).all()
    assert (trace.input_tokens == 512).all()
    assert (trace.output_tokens == 1024).all()
    assert (trace.consume_tps == 20).all()


def test_what_is_not_given_is_left_to_the_run() -> None:
    trace = generate(3)
    assert np.isnan(trace.consume_tps).all()
    assert np.isnan(trace.ttft_slo_s).all()
    assert (trace.priority == 1).all()
    assert trace.reader.all()


def test_an_infinite_rate_is_a_burst() -> None:
    assert (generate(9, arrival="poisson", request_rate=inf).arrival_s == 0).all()
    assert (generate(9, arrival="burst", request_rate=inf).arrival_s == 0).all()


@pytest.mark.parametrize("burstiness", [0.25, 0.5, 1.0, 4.0])
def test_gaps_have_the_rate_and_the_cv_of_their_shape(burstiness: float) -> None:
    n, rate = 40_000, 5.0
    arrival_s = generate(n, arrival="poisson", request_rate=rate, burstiness=burstiness, seed=3).arrival_s
    gaps = np.diff(arrival_s, prepend=0.0)
    assert arrival_s[0] > 0
    assert arrival_s[-1] == n / rate
    assert gaps.mean() == pytest.approx(1 / rate)
    assert gaps.std() / gaps.mean() == pytest.approx(1 / sqrt(burstiness), rel=0.03)


def test_poisson_gaps_are_exponential() -> None:
    gaps = np.sort(np.diff(generate(20_000, arrival="poisson", request_rate=2.0, seed=1).arrival_s, prepend=0.0))
    law = 1 - np.exp(-2.0 * gaps)
    distance = np.abs(law - (np.arange(len(gaps)) + 0.5) / len(gaps)).max()
    assert distance < 1.36 / sqrt(len(gaps))  # Kolmogorov-Smirnov, 5%


def test_infinite_burstiness_is_a_metronome() -> None:
    arrival_s = generate(4, arrival="poisson", request_rate=2.0, burstiness=inf).arrival_s
    assert arrival_s.tolist() == [0.5, 1.0, 1.5, 2.0]


def test_arrivals_are_those_of_vllm_for_the_same_draws() -> None:
    n, rate, burstiness = 50, 3.0, 0.7
    theta = 1 / (rate * burstiness)  # from here on as in vllm/benchmarks/serve.py
    delays = np.random.default_rng(8).gamma(shape=burstiness, scale=theta, size=n).tolist()
    for i in range(1, n):
        delays[i] += delays[i - 1]
    delays = [delay * (n / rate) / delays[-1] for delay in delays]
    ours = gamma_arrivals_s(np.random.default_rng(8), n, rate, burstiness)
    np.testing.assert_allclose(ours, delays, rtol=1e-12)


def test_normal_lengths_have_their_mean_and_sigma() -> None:
    tokens = generate(50_000, input_len="normal:1024:128", seed=5).input_tokens
    assert tokens.dtype == np.int64
    assert tokens.mean() == pytest.approx(1024, abs=3)
    assert tokens.std() == pytest.approx(128, rel=0.02)


@pytest.mark.parametrize(
    ("mean", "sigma", "low", "high"), [(512, 400, 64, 1024), (100, 90, 64, 200), (40, 30, 40, 80), (1, 5, 1, 2)]
)
def test_normal_lengths_are_clipped(mean: int, sigma: int, low: int, high: int) -> None:
    tokens = generate(20_000, output_len=f"normal:{mean}:{sigma}").output_tokens
    assert tokens.min() == low
    assert tokens.max() == high


def test_normal_without_sigma_is_constant() -> None:
    assert set(generate(50, input_len="normal:300:0").input_tokens.tolist()) == {300}


POISSON: dict[str, Any] = {"arrival": "poisson", "request_rate": 4.0, "input_len": "normal:512:100", "output_len": "normal:900:200"}


def test_the_same_seed_gives_the_same_trace_and_another_does_not() -> None:
    one, again, other = generate(100, **POISSON, seed=7), generate(100, **POISSON, seed=7), generate(100, **POISSON, seed=8)
    for name in ("arrival_s", "input_tokens", "output_tokens"):
        assert getattr(one, name).tolist() == getattr(again, name).tolist()
        assert getattr(one, name).tolist() != getattr(other, name).tolist()


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"output_len": "normal:300:50"}, {"output_tokens"}),
        ({"input_len": 64}, {"input_tokens"}),
        ({"request_rate": 8.0}, {"arrival_s"}),
        ({"burstiness": 0.5}, {"arrival_s"}),
        ({"consume_rate": 20.0}, set()),
    ],
)
def test_each_purpose_has_its_own_stream(change: dict[str, Any], changed: set[str]) -> None:
    one, other = generate(100, **POISSON), generate(100, **{**POISSON, **change})
    columns = ("arrival_s", "input_tokens", "output_tokens")
    assert {name for name in columns if getattr(one, name).tolist() != getattr(other, name).tolist()} == changed


def test_the_source_says_how_to_make_it_again() -> None:
    assert generate(5, **POISSON, consume_rate=20, seed=2).source == (
        "generate --num-prompts 5 --arrival poisson --request-rate 4 --burstiness 1 "
        "--input-len normal:512:100 --output-len normal:900:200 --consume-rate 20 --seed 2"
    )


@pytest.mark.parametrize(
    ("options", "option", "phrase"),
    [
        ({"num_prompts": 0}, "--num-prompts", "from 1 to"),
        ({"num_prompts": -3}, "--num-prompts", "from 1 to"),
        ({"num_prompts": 2.5}, "--num-prompts", "whole number"),
        ({"num_prompts": True}, "--num-prompts", "whole number"),
        ({"num_prompts": 10**12}, "--num-prompts", "to 10000000"),
        ({"arrival": "posson"}, "--arrival", "burst or poisson"),
        ({"arrival": "poisson"}, "--request-rate", "needs one"),
        ({"request_rate": 4.0}, "--request-rate", "a burst has no rate"),
        ({"burstiness": 2.0}, "--burstiness", "a burst has no gaps"),
        ({**POISSON, "request_rate": 0}, "--request-rate", "above 0"),
        ({**POISSON, "request_rate": -1.0}, "--request-rate", "above 0"),
        ({**POISSON, "request_rate": nan}, "--request-rate", "above 0"),
        ({**POISSON, "request_rate": "4"}, "--request-rate", "must be a number"),
        ({**POISSON, "request_rate": 1e-300}, "--request-rate", "beyond 2**53 s"),
        ({**POISSON, "burstiness": 0.0}, "--burstiness", "above 0"),
        ({**POISSON, "burstiness": nan}, "--burstiness", "above 0"),
        ({**POISSON, "burstiness": 1e-320}, "--burstiness", "so small"),
        ({"consume_rate": 0.0}, "--consume-rate", "from 1e-09"),
        ({"consume_rate": inf}, "--consume-rate", "to 2**53"),
        ({"seed": -1}, "--seed", "from 0 to 2**53"),
        ({"seed": 1.5}, "--seed", "whole number"),
        ({"input_len": ""}, "--input-len", "unknown law; known: constant:TOKENS, normal:MEAN:SIGMA"),
        ({"input_len": "gauss:5:1"}, "--input-len", "unknown law"),
        ({"input_len": "-5"}, "--input-len", "unknown law"),
        ({"input_len": 0}, "--input-len", "'0' must be at least 1 token"),
        ({"input_len": "12.5"}, "--input-len", "'12.5' is not a whole number"),
        ({"input_len": "constant"}, "--input-len", "must be written constant:TOKENS"),
        ({"input_len": "constant:-1"}, "--input-len", "'-1' is negative"),
        ({"output_len": "constant:1:2"}, "--output-len", "must be written constant:TOKENS"),
        ({"output_len": "constant:x"}, "--output-len", "'x' is not a number"),
        ({"output_len": "constant:1e300"}, "--output-len", "larger than 2**53"),
        ({"output_len": "normal:512"}, "--output-len", "must be written normal:MEAN:SIGMA"),
        ({"output_len": "normal:512:-1"}, "--output-len", "'-1' is negative"),
        ({"output_len": "normal:512:nan"}, "--output-len", "'nan' is NaN"),
        ({"output_len": "normal:512:"}, "--output-len", "'' is not a number"),
        ({"output_len": "normal:0:1"}, "--output-len", "at least 1 token"),
        ({"output_len": f"normal:{2**53}:1"}, "--output-len", "larger than 2**52"),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], option: str, phrase: str) -> None:
    with pytest.raises(BadInput) as caught:
        generate(**{"num_prompts": 10, **options})
    assert caught.value.what == option
    assert phrase in str(caught.value)
    assert str(caught.value).splitlines() == [str(caught.value)]


@given(law=st.builds(Constant, st.integers(1, 2**50)) | st.builds(Normal, st.integers(1, 2**50), st.floats(0, 1e9)))
def test_a_law_is_written_as_the_spec_that_gives_it(law: Constant | Normal) -> None:
    assert parse_lengths("--input-len", str(law)) == law


kinds = st.sampled_from(["normal", "constant"])
digits = st.text("0123456789.e-_ naif", max_size=8)


@given(spec=st.text(max_size=20) | st.builds("{}:{}".format, kinds, digits) | st.builds("{}:{}:{}".format, kinds, digits, digits))
@settings(max_examples=500)
def test_any_spec_is_a_law_or_is_refused(spec: str) -> None:
    try:
        law = parse_lengths("--input-len", spec)
    except BadInput as error:
        message = str(error)
    else:
        tokens = law.sample(np.random.default_rng(0), 20)
        assert tokens.shape == (20,)
        assert (tokens >= 1).all()
        return
    assert message.startswith("--input-len: ")
    assert message.splitlines() == [message]


@given(
    n=st.integers(1, 200),
    rate=st.floats(1e-3, 1e4),
    burstiness=st.floats(0.05, 100) | st.just(inf),
    seed=st.integers(0, 2**32),
)
def test_any_renewal_trace_is_in_order_and_lasts_as_its_rate_says(n: int, rate: float, burstiness: float, seed: int) -> None:
    arrival_s = generate(n, arrival="poisson", request_rate=rate, burstiness=burstiness, seed=seed).arrival_s
    assert (np.diff(arrival_s, prepend=0.0) >= 0).all()
    assert arrival_s[-1] == n / rate
