"""Running ahead equals step by step: same decisions, same batches, token times within a nanosecond."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from builders import FAST, Ask, Rotate, machine, random_asks, random_machine, run_engine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_policy import RandomPolicy

from policies import POLICIES, Vllm
from policies.api import Event, Policy
from sim.machine import Machine

CANDIDATES: dict[str, Callable[[int], Policy]] = {
    **{name: lambda seed, make=make: make() for name, make in POLICIES.items()},
    "vllm, by chunk": lambda seed: Vllm(reserve_whole_prompt=False),
    "rotate": lambda seed: Rotate(rich_s=0.5, until=(Event.ANY, Event.ANY & ~Event.EVICTED)[seed % 2]),
    "rotate, no write-through": lambda seed: Rotate(tick_s=0.2, rich_s=0.5, write_through=False),
    "random": RandomPolicy,
}


def same_in_steps(asks: list[Ask], policy: Policy, on: Machine, stop_s: float = inf) -> None:
    ahead, steps = (run_engine(asks, policy, on, step_by_step=slowly, stop_s=stop_s) for slowly in (False, True))
    assert len(ahead.log.batches) == len(steps.log.batches)
    assert ahead.log.batches == steps.log.batches
    assert ahead.log.plans == steps.log.plans
    np.testing.assert_allclose(ahead.log.asked_s, steps.log.asked_s, rtol=0, atol=1e-9)
    for id in range(len(asks)):
        np.testing.assert_allclose(ahead.records.token_times_s(id), steps.records.token_times_s(id), rtol=0, atol=1e-9)
    for name in ("tokens", "preemptions", "fate"):
        np.testing.assert_array_equal(getattr(ahead.records, name), getattr(steps.records, name))
    assert ahead.engine.h2d.blocks == steps.engine.h2d.blocks
    assert ahead.engine.d2h.blocks == pytest.approx(steps.engine.d2h.blocks, abs=1e-6)


@pytest.mark.parametrize("name", CANDIDATES)
def test_random_traces(name: str) -> None:
    for seed in range(3):
        rng = np.random.default_rng([seed, 1])
        asks = random_asks(rng, int(rng.integers(5, 25)))
        same_in_steps(asks, CANDIDATES[name](seed), random_machine(rng, asks, tight=seed < 2))


@st.composite
def loads(draw: st.DrawFn) -> tuple[list[Ask], Machine]:
    """A few requests and a machine that can just hold each of them, or all."""
    gaps, rates = st.sampled_from([0.0, 0.01, 0.3, 4.0]), st.sampled_from([3.0, 20.0, 50.0])
    now, asks = 0.0, []
    one = st.tuples(st.integers(1, 200), st.integers(1, 60), gaps, rates)
    for prompt, output, gap, rate in draw(st.lists(one, min_size=1, max_size=12)):
        now += gap
        asks.append(Ask(now, prompt, output, rate))
    block_size = draw(st.sampled_from([1, 16, 32]))
    sizes = [-(-(ask.prompt + ask.output) // block_size) for ask in asks]
    pool = draw(st.integers(max(sizes), sum(sizes) + 2))
    seats = draw(st.integers(1, 12))
    on = machine(kv_blocks=pool, host_kv_blocks=draw(st.integers(0, 2 * pool)), block_size=block_size, max_seqs=seats,
                 max_step_tokens=draw(st.integers(max(seats, 8), 300)), h2d_bytes_per_s=draw(st.sampled_from([0.05e9, 1e9, 25e9])),
                 d2h_bytes_per_s=draw(st.sampled_from([0.05e9, 1e9, 25e9])), believed_step=draw(st.sampled_from([0.5, 1.0, 2.0])),
                 believed_link=draw(st.sampled_from([0.5, 1.0, 2.0])), duplex_h2d=draw(st.sampled_from([0.5, 1.0])),
                 duplex_d2h=draw(st.sampled_from([0.5, 0.96])), write_whole_blocks=draw(st.booleans()))
    return asks, on


@pytest.mark.parametrize("name", CANDIDATES)
@settings(max_examples=8, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large])
@given(load=loads(), seed=st.integers(0, 1000))
def test_any_load(name: str, load: tuple[list[Ask], Machine], seed: int) -> None:
    same_in_steps(load[0], CANDIDATES[name](seed), load[1])


@pytest.mark.parametrize("name", CANDIDATES)
def test_corners(name: str) -> None:
    """Prompts and outputs of one token, everything at once, requests that fill the pool exactly, one seat."""
    one = [Ask(0.0, 1, 1), Ask(0.0, 1, 1), Ask(0.0, 1, 5), Ask(0.0, 40, 1), Ask(0.1, 1, 1)]
    full = [Ask(0.0, 100, 60, 40.0), Ask(0.0, 1, 159), Ask(0.0, 159, 1), Ask(0.2, 80, 80)]
    for asks in (one, full, one + [replace(ask, arrival_s=0.1 + ask.arrival_s) for ask in full]):
        for block_size, seats in ((1, 4), (16, 4), (32, 1)):
            on = machine(kv_blocks=160 // block_size, host_kv_blocks=320 // block_size, block_size=block_size, max_seqs=seats,
                         max_step_tokens=64)
            same_in_steps(asks, CANDIDATES[name](3), on)


@pytest.mark.parametrize("name", CANDIDATES)
def test_stopped_early(name: str) -> None:
    """Nothing delivered before the stop is lost, whether it was computed in one run or in steps."""
    rng = np.random.default_rng(5)
    asks = random_asks(rng, 20, rate=20.0)
    on = machine(kv_blocks=60, host_kv_blocks=60)
    for stop_s in (0.05, 0.7, 1.9):
        same_in_steps(asks, CANDIDATES[name](5), on, stop_s)


def test_a_run_is_cut_by_what_others_do() -> None:
    """An event that does not concern the plan ends a run, not the plan."""
    asks = [Ask(0.0, 64, 100), Ask(0.31, 64, 100)]
    ran = run_engine(asks, Rotate(tick_s=100.0, until=Event.FINISH), machine(latency=FAST))
    assert ran.engine.count.runs > ran.engine.count.decisions
    assert ran.records.first_s[1] > ran.records.last_s[0], "the newcomer waits: its arrival is not in `until`"
