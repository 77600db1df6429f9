"""Every request of a trace gets one fate, every token one time; whatever ends the run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import Rotate, machine
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_policy import RandomPolicy

from policies import POLICIES
from policies.api import Policy
from sim import simulate
from sim.audit import check_records
from sim.machine import Machine
from sim.records import Fate
from traces import Trace, make_trace


def trace(seed: int, n: int = 30, rate: float = 15.0) -> Trace:
    rng = np.random.default_rng(seed)
    return make_trace(rng.exponential(1 / rate, n).cumsum(), rng.integers(1, 450, n), rng.integers(1, 120, n))


SMALL = machine(kv_blocks=30, host_kv_blocks=40, max_seqs=8)       # 480 tokens: some requests can never run


@pytest.mark.parametrize("name", POLICIES)
def test_rejected_and_completed(name: str) -> None:
    load = trace(0)
    result = simulate(name, load, SMALL)
    too_long = load.input_tokens + load.output_tokens > 480
    assert 0 < too_long.sum() < len(load)
    np.testing.assert_array_equal(result.records.fate, np.where(too_long, Fate.REJECTED, Fate.COMPLETED))
    assert all("480 tokens" in reason if over else not reason for reason, over in zip(result.records.reason, too_long))
    check_records(result.records, load.output_tokens)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("until_s", [1e-3, 0.3, 1.1, 5.0, 1e6])
def test_stopped(name: str, until_s: float) -> None:
    """Whoever is not done by then is unfinished, with the tokens delivered so far; arrived or not."""
    load = trace(1)
    whole, part = simulate(name, load, SMALL), simulate(name, load, SMALL, until_s=until_s)
    check_records(part.records)
    done = (whole.records.fate == Fate.COMPLETED) & (whole.records.last_s < until_s)
    rejected = whole.records.fate == Fate.REJECTED
    expected = np.where(done, Fate.COMPLETED, np.where(rejected, Fate.REJECTED, Fate.UNFINISHED))
    np.testing.assert_array_equal(part.records.fate, expected)
    for id in range(len(load)):
        times = whole.token_times_s(id)
        np.testing.assert_allclose(part.token_times_s(id), times[times < until_s], rtol=0, atol=1e-9)
    assert part.summary["completed"] + part.summary["failed"] + part.summary["unfinished"] == len(load)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), until_s=st.none() | st.floats(0.01, 6), concurrency=st.none() | st.integers(1, 8),
       longest=st.none() | st.integers(100, 500), policy=st.sampled_from([*POLICIES, Rotate(rich_s=0.3), RandomPolicy(1)]))
def test_any_ending(seed: int, until_s: float | None, concurrency: int | None, longest: int | None, policy: str | Policy) -> None:
    load = trace(seed, 15)
    on = replace(SMALL, kv_blocks=40)
    assume((load.input_tokens + load.output_tokens).min() <= (longest or 480))
    result = simulate(policy, load, on, until_s=until_s, max_concurrency=concurrency, max_model_len=longest)
    check_records(result.records, load.output_tokens)
    fates = [result.summary[name] for name in ("completed", "failed", "unfinished")]
    assert sum(fates) == len(load)
    assert until_s is not None or not fates[2]
    assert result.links["h2d_busy_s"] <= result.end_s + 1e-9
    if concurrency:
        assert most_at_once(result.records.sent_s, result.records.last_s, result.records.fate) <= concurrency


def most_at_once(sent_s: np.ndarray, last_s: np.ndarray, fate: np.ndarray) -> int:
    """Requests in flight together, at most; one that starts when another ends does not overlap it, to a nanosecond."""
    sent_s, last_s = sent_s.round(9), last_s.round(9)
    inside = (fate != Fate.REJECTED) & ~np.isnan(sent_s)
    moments = [(time, 1) for time in sent_s[inside]] + [(time, -1) for time in last_s[inside & (fate == Fate.COMPLETED)]]
    return int(np.cumsum([step for _, step in sorted(moments)]).max(initial=0))


def test_a_slow_link_stopped_midway() -> None:
    """What is queued for later has not moved yet."""
    on = replace(SMALL, kv_blocks=60, host_kv_blocks=400, d2h_bytes_per_s=5e6, h2d_bytes_per_s=5e6)
    result = simulate("least-slack", trace(1, 30), on, until_s=3.0)
    assert result.links["d2h_bytes"] > 5e6
    assert 0.5 < result.links["d2h_busy_s"] / 3.0 <= 1.01
    assert result.links["d2h_bytes"] <= 1.01 * 3.0 * 5e6


def test_same_inputs_same_run() -> None:
    first, second = (simulate("tokenflow", trace(3), SMALL) for _ in range(2))
    assert first.summary == second.summary
    np.testing.assert_array_equal(first.records.clock_s, second.records.clock_s)


def test_a_long_run_keeps_its_clock() -> None:
    """After a simulated year, token times are still exact to a microsecond and in order."""
    late = make_trace(np.array([0.0, 3.2e7]), 100, 200)
    result = simulate("vllm", late, Machine(machine().latency, 100, 0))
    first, second = (np.diff(result.token_times_s(id)) for id in (0, 1))
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-6)
