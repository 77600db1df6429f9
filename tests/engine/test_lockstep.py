"""The simulator and vLLM's real scheduler under the same policy: every View, Plan and step must be equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import pytest
from cases import Ask, load, machine
from model_engine import simulated, unwatched
from random_policy import RandomPolicy
from recording import Recording, difference
from rotate import Rotate

from policies import POLICIES, Andes, AndesCode, FastServe, Vtc
from policies.api import Event, Plan, Policy, View
from policies.tokenflow import TokenFlow
from sim.engine import Engine
from sim.machine import Machine

pytestmark = pytest.mark.engine

Case = tuple[Policy, list[Ask], Machine]
MEMORY, HOST = ("tight", "tight", "ample"), ("ample", "tight", "ample", "tight", "none")
TOKENFLOW = ({}, {"interval_s": 0.3}, {"overlap": False}, {"write_through": False}, {"ride_share": 0.0},
             {"load_or_recompute": False}, {"offload": False}, {"utility": "slack"},
             {"working_set": "paper", "fallback": "fcfs", "utility": "printed"})
OTHERS = (*(POLICIES[name] for name in sorted(set(POLICIES) - {"vllm", "tokenflow", "tokenflow-paper"})),
          lambda: Andes(swap=True), lambda: AndesCode(swap=True), lambda: Andes(preemption_cap=1, replan_steps=1),
          lambda: FastServe(max_batch_size=6, starve_steps=50), lambda: Vtc(clients="class"))
COUNTED = ("decisions", "offloads", "drops", "copies_given_up", "forgets", "loads")


def vllm(seed: int) -> Case:
    policy = POLICIES["vllm"](reserve_whole_prompt=seed % 3 > 0)
    return policy, load(seed, 80, 1000, 300), machine(seed, 1300, MEMORY[seed % 3], "none")


def tokenflow(seed: int) -> Case:
    """Slow readers and fast links, so that there is something to win by preempting."""
    fields = {"interval_s": 0.4} | TOKENFLOW[seed % len(TOKENFLOW)]
    asks = [ask._replace(consumption_rate=3 + ask.consumption_rate / 3,
                         rate_changes=tuple((token, 3 + rate / 3) for token, rate in ask.rate_changes))
            for ask in load(seed, 60, 600, 300)]
    tight = machine(seed, 900, "ample" if seed % 10 == 9 else "tight", HOST[seed % 5])
    rate = 25e9 if seed % 4 else tight.h2d_bytes_per_s
    return TokenFlow(**fields), asks, replace(tight, max_seqs=64, max_step_tokens=max(tight.max_step_tokens, 256),
                                              h2d_bytes_per_s=rate, d2h_bytes_per_s=rate)


def others(seed: int) -> Case:
    """The rest of POLICIES in turn, twice; some of them prefill whole prompts only."""
    turn, which = divmod(seed, len(OTHERS))
    host = (("ample", "none"), ("tight", "ample"))[which % 2][turn]
    on = machine(seed, 900, "ample" if seed % 9 == 7 else "tight", host)
    return OTHERS[which](), load(seed, 60, 600, 300), replace(on, max_step_tokens=16_384)


def rotate(seed: int) -> Case:
    until = (Event.ANY, Event.ANY & ~(Event.LANDED | Event.PREFILLED))[seed % 2]
    return (Rotate(steps=(12, 3)[seed // 2 % 2], until=until), load(seed, 60, 1000, 300),
            machine(seed, 1300, MEMORY[seed % 3], HOST[seed % 5]))


def random(seed: int) -> Case:
    """Whims waste most of what they compute: short requests."""
    return RandomPolicy(seed), load(seed, 60, 400, 60), machine(seed, 460, MEMORY[seed % 3], HOST[seed % 5])


@dataclass
class Claim:
    """On how many cases a policy is run, and what they contain at least."""

    cases: int
    least: Counter[str]


CLAIMS: dict[Callable[[int], Case], Claim] = {
    vllm: Claim(13, Counter(steps=20_000, decisions=10_000, victims=2000)),
    tokenflow: Claim(16, Counter(steps=20_000, decisions=2000, offload=250, load=200, store=4000, mixed=500)),
    others: Claim(2 * len(OTHERS), Counter(steps=40_000, decisions=8000, victims=300, offload=300, load=300, aborted=100,
                                           stopped=200, wake_after_steps=100)),
    rotate: Claim(13, Counter(steps=20_000, decisions=5000, offload=2000, load=2000, store=8000, forget=500, host_drop=50,
                              contended=5, aborted=50, stopped=100, verified=1500)),
    random: Claim(23, Counter(steps=20_000, decisions=15_000, victims=2000, offload=1000, load=800, store=10_000, forget=2000,
                              contended=8, aborted=100, stopped=200, verified=500)),
}

@pytest.mark.parametrize("case", CLAIMS, ids=lambda case: case.__name__)
def test_every_view_plan_and_step_is_equal(fake: ModuleType, case: Callable[[int], Case],
                                           capsys: pytest.CaptureFixture[str]) -> None:
    total: Counter[str] = Counter()
    for seed in range(CLAIMS[case].cases):
        policy, asks, on = case(seed)
        model, engine = simulated(asks, policy, on)
        real = fake.FakeEngine(asks, policy, on)
        assert not difference(model, real.run()), f"seed {seed}, {policy}, {on}"
        for name in COUNTED:
            assert getattr(engine.count, name) == getattr(real.vllm.count, name), name
        total += real.recording.tally()
        total += Counter(aborted=len(engine.aborted), stopped=sum(ask.stops_after > 0 for ask in asks),
                         verified=real.model.verified)
        total["contended"] += any(link.busy_s > link.blocks * link.block_s + 1e-3 for link in (engine.h2d, engine.d2h))
        _check_unwatched(model, engine, *unwatched(asks, policy, on))
    with capsys.disabled():
        print(f"\n{case.__name__}: {CLAIMS[case].cases} runs equal:", ", ".join(f"{n:,} {what}" for what, n in total.items()))
    assert total >= CLAIMS[case].least


def _check_unwatched(watched: Recording, engine: Engine, silent: Recording, alone: Engine) -> None:
    """Lockstep watches the simulator, and users do not: it must decide the same, at the same times."""
    silent.steps = watched.steps
    assert not difference(watched, silent), "the simulator decides otherwise when nobody watches"
    assert np.allclose(engine.clock.ends_s(), alone.clock.ends_s(), rtol=0, atol=1e-9)


def test_a_client_gives_up_while_its_copy_ends_and_the_plan_waits_for_that_alone(fake: ModuleType) -> None:
    policy, asks, on = random(63)
    model, engine = simulated(asks, policy, on)
    assert engine.aborted
    assert not difference(model, fake.FakeEngine(asks, policy, on).run())


class WaitsForAnEviction:
    """Prefills the first request, evicts it and waits for that alone; then serves the newest."""

    def __init__(self) -> None:
        self.asked = 0

    def plan(self, view: View) -> Plan:
        self.asked += 1
        row = 0 if self.asked <= 2 else len(view.id) - 1
        ids, left = view.id[row:row + 1], int(view.remaining_tokens[row])
        if self.asked == 2:
            return Plan(offload=ids, until=Event.EVICTED)
        return Plan(decode=ids) if left == 1 else Plan(prefill=((int(ids[0]), left),))


def test_a_client_gives_up_before_its_copy_ends_and_nobody_waits_for_ever(fake: ModuleType) -> None:
    _, asks, on = random(63)
    stays = asks[0]._replace(arrival_s=0.0, prompt_tokens=200, output_tokens=9, rate_changes=(), stops_after=0, gives_up_s=np.inf)
    asks, on = [stays._replace(gives_up_s=0.05), stays], replace(on, max_step_tokens=1024, d2h_bytes_per_s=200e6)
    model, engine = simulated(asks, WaitsForAnEviction(), on)
    real = fake.FakeEngine(asks, WaitsForAnEviction(), on)
    assert not difference(model, real.run())
    assert engine.aborted == [0]
    assert real.vllm.fallbacks == 0


@pytest.mark.parametrize(("case", "seed"), [(tokenflow, 5), (rotate, 7), (random, 2)], ids=["tokenflow", "rotate", "random"])
def test_links_that_take_no_time(fake: ModuleType, case: Callable[[int], Case], seed: int) -> None:
    policy, asks, on = case(seed)
    on = replace(on, h2d_bytes_per_s=np.inf, d2h_bytes_per_s=np.inf, copy_overhead_s=0.0)
    model, engine = simulated(asks, policy, on)
    assert engine.count.loads > 10
    assert not difference(model, fake.FakeEngine(asks, policy, on).run())


@pytest.mark.parametrize("link", ["h2d_bytes_per_s", "d2h_bytes_per_s"])
@pytest.mark.parametrize(("case", "seed"), [(tokenflow, 3), (rotate, 7), (random, 7)], ids=["tokenflow", "rotate", "random"])
def test_a_link_one_percent_slower_is_noticed(fake: ModuleType, case: Callable[[int], Case], seed: int, link: str) -> None:
    """The policy and its beliefs are the same; only the copies take longer on one side."""
    policy, asks, on = case(seed)
    model, _ = simulated(asks, policy, on)
    slower = replace(on, **{link: getattr(on, link) / 1.01})
    assert difference(model, fake.FakeEngine(asks, policy, on, links=slower).run())


@pytest.mark.parametrize("share", ["duplex_h2d", "duplex_d2h"])
@pytest.mark.parametrize(("case", "seed"), [(rotate, 7), (random, 11)], ids=["rotate", "random"])
def test_more_contention_is_noticed(fake: ModuleType, case: Callable[[int], Case], seed: int, share: str) -> None:
    policy, asks, on = case(seed)
    model, _ = simulated(asks, policy, on)
    slower = replace(on, **{share: getattr(on, share) / 1.01})
    assert difference(model, fake.FakeEngine(asks, policy, on, links=slower).run())


def _one_decoder_less(plan: Plan) -> Plan:
    return plan._replace(decode=plan.decode[:-1]) if len(plan.decode) > 1 else plan


def _one_token_less(plan: Plan) -> Plan:
    *others, (id, tokens) = plan.prefill or ((0, 0),)
    return plan._replace(prefill=(*others, (id, tokens - 1))) if tokens > 1 else plan


def _store_backwards(plan: Plan) -> Plan:
    return plan._replace(store=plan.store[::-1])


def _load_backwards(plan: Plan) -> Plan:
    return plan._replace(load=plan.load[::-1])


@dataclass
class Mutant:
    """Does as `policy` does for a while; then every plan goes through `change`."""

    policy: Policy
    change: Callable[[Plan], Plan]
    patience: int = 50

    def plan(self, view: View) -> Plan:
        plan = self.policy.plan(view)
        self.patience -= 1
        return self.change(plan) if self.patience < 0 else plan


@pytest.mark.parametrize("change", [_one_decoder_less, _one_token_less, _store_backwards, _load_backwards])
def test_a_changed_policy_is_noticed_by_its_steps(fake: ModuleType, change: Callable[[Plan], Plan]) -> None:
    policy, asks, on = rotate(8)
    model, _ = simulated(asks, policy, on)
    real = fake.FakeEngine(asks, Mutant(policy, change), on).run()
    assert difference(model, real).startswith("decision")
    model.decisions.clear()
    real.decisions.clear()
    assert difference(model, real).startswith("step")
