"""Andes, part by part against figures worked out by hand; then what it does to a burst."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
from builders import FAST, Ask, Log, machine, run_engine, view_of

from policies import Andes, AndesCode
from policies.andes_loop import Room
from policies.api import Plan, Residency, View
from policies.scene import Scene
from sim import simulate
from sim.engine import Engine
from sim.latency import LatencyModel
from sim.machine import Machine
from sim.workloads import workload

NONE, GPU, HOST = Residency.NONE, Residency.GPU, Residency.HOST
STEP = LatencyModel(0.02, 1e-4, 0.0, 0.0, 0.0, 1.0)         # 20 ms, and 0.1 ms a token
CROWDED = LatencyModel(1e-9, 0.0, 0.0, 0.0, 4.9e-3, 1.0)     # 5 ms for each request in the step


def on(**changes: Any) -> Machine:
    return machine(**{"latency": STEP, "kv_blocks": 100, "host_kv_blocks": 100, "max_step_tokens": 1 << 20} | changes)


# ---- the knapsack


def full(n: int = 4, now_s: float = 20.0, **changes: Any) -> View:
    """Residents of 20 blocks each, 15 s to read, on a GPU of 100 (10 of them free); two wait, of 10 and of 5 blocks."""
    return view_of(on(**changes), now_s, [160] * n + [150, 70], [150] * n + [0, 0], [GPU] * n + [NONE] * 2,
                   slack_s=[15.0] * n + [0.0] * 2, arrival_s=[2.0] * n + [14.0] * 2)


def selected(policy: Andes, view: View) -> tuple[list[int], list[int]]:
    """Rows, best first; those of them that are chosen."""
    policy._readers.observe(view)
    best = policy._select(Scene(view), policy._needs(view), pressed=True)
    return best.rows.tolist(), best.rows[best.chosen].tolist()


def test_the_order_is_gain_per_token_of_context() -> None:
    ranked, chosen = selected(Andes(), full())
    assert ranked[:2] == [5, 4], "the same gain, less than half the context"
    assert sorted(ranked[2:]) == [0, 1, 2, 3], "15 s to read: the next 10 bring nothing"
    assert chosen == [5, 4, 0, 1, 2, 3]
    view = full()
    assert selected(Andes(), view._replace(total_blocks=80))[1] == [5, 4, 0, 1, 2], "6 + 10 + 3 of 20 or 21 blocks"


def test_gain_is_over_the_horizon() -> None:
    """Seen 20 s ahead the residents run dry as well."""
    def gains(horizon_s: float) -> np.ndarray[Any, Any]:
        policy = Andes(horizon_s=horizon_s)
        view = full()
        policy._readers.observe(view)
        best = policy._select(Scene(view), policy._needs(view), pressed=True)
        return best.gain[best.rows.argsort()]
    assert (gains(10.0)[:4] == 0).all()
    assert (gains(20.0)[:4] > 0).all()
    view = full()
    policy = Andes()
    policy._readers.observe(view)
    age, prefill_s = 5.0, 70 * policy._learnt.prefill_token_s(view)
    served = 1 - ((age + prefill_s) ** 2 / 2 + (age + prefill_s) * (10 - prefill_s)) / ((age + 10) ** 2 / 2)
    assert gains(10.0)[5] == pytest.approx(served), "waiting, it reads nothing"


def test_room_is_kept_for_growth_until_the_next_knapsack() -> None:
    view = full()
    assert Andes(replan_steps=1)._needs(view).tolist() == [20, 20, 20, 20, 10, 5]
    assert Andes(replan_steps=16)._needs(view).tolist() == [21, 21, 21, 21, 11, 6]


def test_batch_sizes_run_from_the_fastest_reader_to_memory() -> None:
    """5 ms a request: ten of them are as fast as 20 tokens/s."""
    view = full(latency=CROWDED)
    assert Andes()._sizes(view, 40) == [10, 14, 18, 22, 27, 31, 35, 40]
    assert Andes(batch_sizes=2)._sizes(view, 40) == [10, 40]
    assert Andes()._sizes(view, 7) == [7], "all of them outrun the reader: the more the better"
    faster = view._replace(consumption_rate=np.full(6, 50.0))
    assert Andes(batch_sizes=1000)._sizes(faster, 9) == [4, 5, 6, 7, 8, 9]


def test_the_batch_size_whose_requests_gain_most_together() -> None:
    """Twelve who all wait, 25 ms a request: eight are as fast as six of the readers, and all others read ever faster."""
    crowd = on(latency=LatencyModel(1e-9, 0.0, 0.0, 0.0, 2.5e-2, 1.0), kv_blocks=10_000)
    view = view_of(crowd, 3.0, [100 + i for i in range(12)], [0] * 12, [NONE] * 12, rate=[5.0] * 6 + [60.0] * 6)
    policy = Andes(batch_sizes=100)
    policy._readers.observe(view)
    scene, needs = Scene(view), policy._needs(view)
    best = policy._select(scene, needs, pressed=True)
    starts_s, rows = policy._starts_s(scene, np.arange(12)), np.arange(12)
    totals = []
    for size in range(1, 13):
        speed = 1 / (2.5e-2 * size) / view.consumption_rate
        gain = policy._readers.qoe(rows, 10.0, starts_s, speed) - policy._readers.qoe(rows, 10.0, inf, 0.0)
        totals.append(np.sort(gain)[::-1][:size].sum())
    assert best.size == int(np.argmax(totals)) + 1 == 8
    assert best.gain[best.chosen].sum() == pytest.approx(max(totals), rel=1e-3)


def test_beyond_the_batch_size_residents_rest_and_keep_their_memory() -> None:
    """0.1 s for each request in a step, half of what one reader takes: some have a minute to read, and rest."""
    crowd = on(latency=LatencyModel(1e-9, 0.0, 0.0, 0.0, 0.1, 1.0), kv_blocks=1000)
    view = view_of(crowd, 60.0, [100] * 4, [1000, 20, 20, 20], [GPU] * 4, slack_s=[60.0, 0.0, 0.0, 0.0], max_tokens=4000)
    plan = Andes(batch_sizes=100).plan(view)
    assert 0 not in plan.decode.tolist()
    assert 0 < len(plan.decode) < 4
    assert not len(plan.drop)
    assert plan.wake_after_steps == 10


# ---- the refiner and the cap


def test_the_refiner_weighs_the_stall_of_those_who_run() -> None:
    """A prompt of 3 s, and room for it beside three who have 0.2 s to read, or 9 s.

    It gains (21^2 / 2 - 14^2 / 2 - 14 * 7) / (21^2 / 2) = 0.11; each of the hungry loses (2.8^2 / 2 + 2.8 * 7) / (20^2 / 2) = 0.12.
    """
    def view(output: int, slack_s: float, kv_blocks: int) -> View:
        return view_of(on(kv_blocks=kv_blocks), 12.0, [160] * 3 + [150], [output] * 3 + [0], [GPU] * 3 + [NONE], rate=10.0,
                       slack_s=[slack_s] * 3 + [0.0], arrival_s=[1.0] * 3 + [0.0], prefill_s=12.8)
    hungry, content = view(95, 0.1, 62), view(190, 9.0, 80)
    assert not Andes().plan(hungry).prefill
    assert Andes().plan(hungry).decode.tolist() == [0, 1, 2]
    assert Andes(refiner=False).plan(hungry).prefill == ((3, 150),)
    assert Andes().plan(content).prefill == ((3, 150),)
    alone = view_of(on(kv_blocks=10), 12.0, [150, 150], [0, 0], [NONE] * 2, rate=10.0)
    assert Andes().plan(alone).prefill == ((0, 150),), "nobody runs, nobody loses"


def test_the_refiner_counts_what_victims_lose() -> None:
    """Two of the spare are taken for the second admit, none for the first."""
    policy, view = Andes(), full()
    policy._readers.observe(view)
    scene, needs = Scene(view), policy._needs(view)
    gain = np.array([0.9, 0.0, 0.0, 0.0, 0.5, 0.5])
    admits = np.array([5, 4])
    assert policy._worthwhile(scene, Room(6, 10), admits, [0], gain, needs) == 1, "0 would lose 0.9"
    assert policy._worthwhile(scene, Room(6, 10), admits, [1], gain, needs) == 2
    assert policy._worthwhile(scene, Room(20, 10), admits, [0], gain, needs) == 2, "there is room without"


def burst(n: int = 60, prompt: int = 200, output: int = 300, rate: float = 20.0, seed: int = 0) -> list[Ask]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(prompt // 2, 3 * prompt // 2, n), rng.integers(output // 2, 3 * output // 2, n)
    return [Ask(0.0, int(p), int(o), rate) for p, o in zip(*lengths)]


SCARCE = machine(latency=FAST, kv_blocks=180, host_kv_blocks=4000, max_step_tokens=1 << 20)


@pytest.mark.parametrize("cap", [0.0, 0.5, 1.0])
def test_the_cap_bounds_preemptions_for_others(cap: float) -> None:
    capped = run_engine(burst(), Andes(preemption_cap=cap), SCARCE)
    assert isinstance(capped.policy, Andes)
    assert capped.policy._preempted <= cap * 60
    assert capped.policy._seen == 60
    free = run_engine(burst(), Andes(), SCARCE)
    assert isinstance(free.policy, Andes)
    assert free.policy._preempted > 60


@pytest.mark.parametrize("policy", [Andes(), AndesCode()], ids=repr)
@pytest.mark.parametrize("steps", [3, 10, 40])
def test_under_pressure_it_thinks_every_so_many_steps(policy: Andes | AndesCode, steps: int) -> None:
    ran = run_engine(burst(), replace(policy, replan_steps=steps), SCARCE)
    assert max(plan[-1] for plan in ran.log.plans) == steps


def test_with_room_for_all_it_is_asked_at_arrivals_only() -> None:
    asks = [Ask(float(i), 100, 200) for i in range(10)]
    ran = run_engine(asks, Andes(), machine(max_step_tokens=1 << 20))
    assert len(ran.log.plans) <= 22, "an arrival and the end of its prefill"
    assert ran.engine.count.drops == 0


@pytest.mark.parametrize("policy", [Andes(swap=True), AndesCode(swap=True)], ids=repr)
def test_swapped_victims_come_back_without_recomputation(policy: Andes | AndesCode) -> None:
    count = run_engine(burst(), policy, SCARCE).engine.count
    assert count.offloads == count.loads > 20
    assert count.recomputed_tokens == count.drops == 0
    assert run_engine(burst(), replace(policy, swap=False), SCARCE).engine.count.recomputed_tokens > 0
    poor = run_engine(burst(), policy, replace(SCARCE, host_kv_blocks=40)).engine.count
    assert poor.loads > 0
    assert poor.drops > 0, "the host is full"


ARMS: list[dict[str, Any]] = [
    {"horizon_s": 1.0}, {"expected_ttft_s": 20.0}, {"replan_steps": 30}, {"watermark": 0.2}, {"refiner": False}, {"swap": True},
    {"preemption_cap": 0.2}, {"max_prefill_tokens": 400}]


@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_every_field_has_its_effect(arm: dict[str, Any]) -> None:
    asks = [replace(ask, arrival_s=0.02 * i) for i, ask in enumerate(burst())]
    plain, changed = (run_engine(asks, Andes(**fields), SCARCE) for fields in ({}, arm))
    assert plain.log.batches != changed.log.batches


@pytest.mark.parametrize("policy", [Andes(), AndesCode()], ids=repr)
def test_whole_prompts_go_before_decodes(policy: Andes | AndesCode) -> None:
    seen = 0

    class Whole(Log):
        def decided(self, engine: Engine, view: View, plan: Plan) -> None:
            nonlocal seen
            super().decided(engine, view, plan)
            assert not (plan.prefill and len(plan.decode))
            left = dict(zip(view.id.tolist(), view.remaining_tokens.tolist()))
            assert all(tokens == left[id] for id, tokens in plan.prefill)
            seen += len(plan.prefill)
    run_engine(burst(), policy, SCARCE, watch=Whole())
    assert seen > 60, "some of them twice"


# ---- what it does


def reported(policy: str | Andes, name: str = "table1-4090-b") -> dict[str, Any]:
    named = workload(name)
    return simulate(policy, named.trace(seed=1), **named.machine).summary


@pytest.mark.parametrize("policy", ["andes", "andes-code"])
def test_a_burst_has_better_qoe_than_first_come_first_served_and_less_throughput(policy: str) -> None:
    ours, sglang = reported(policy), reported("sglang")
    assert ours["mean_qoe"] > sglang["mean_qoe"]
    assert ours["p99_ttft_ms"] < 0.5 * sglang["p99_ttft_ms"]
    assert ours["output_throughput"] < sglang["output_throughput"]
    assert ours["recomputed_tokens"] > 10_000


def test_the_preemption_cap_and_the_host_save_throughput() -> None:
    policies = (Andes(), Andes(preemption_cap=1.0), Andes(swap=True))
    plain, capped, swapped = (reported(policy, "table1-h200-b") for policy in policies)
    assert plain["output_throughput"] < capped["output_throughput"] < swapped["output_throughput"]


@pytest.mark.parametrize(("make", "fields", "why"), [
    (Andes, {"horizon_s": 0}, "horizon_s=0: must be a finite number above zero"), (Andes, {"replan_steps": 0}, "replan_steps=0"),
    (Andes, {"watermark": 1.5}, "watermark=1.5: is a share"), (Andes, {"batch_sizes": -1}, "batch_sizes=-1"),
    (Andes, {"preemption_cap": -1.0}, "preemption_cap=-1.0: must be a finite number not below zero"),
    (Andes, {"expected_ttft_s": inf}, "expected_ttft_s=inf"), (AndesCode, {"token_latency_s": 0.0}, "token_latency_s=0.0"),
    (AndesCode, {"running_bonus": inf}, "running_bonus=inf"), (AndesCode, {"max_prefill_tokens": 0}, "max_prefill_tokens=0")])
def test_impossible_fields(make: type, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make(**fields)
