"""One contract for every policy in `POLICIES` and each of its on/off fields turned over."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from builders import Ask, Log, machine, random_asks, run_engine
from random_policy import RandomPolicy

import policies
from policies import POLICIES
from policies.api import Plan, Policy, View
from sim.machine import Machine
from sim.records import Fate


def variants() -> dict[str, Callable[[], Policy]]:
    """Each policy as it comes, and with one on/off field turned over."""
    found: dict[str, Callable[[], Policy]] = {}
    for name, make in POLICIES.items():
        found[name] = make
        for f in fields(make()):
            value = getattr(make(), f.name)
            if f.init and isinstance(value, bool):
                found[f"{name} {f.name}={not value}"] = lambda make=make, changes={f.name: not value}: replace(make(), **changes)
    return found


VARIANTS = variants()
TIGHT = machine(kv_blocks=80, host_kv_blocks=100, max_seqs=16, max_step_tokens=512)
AMPLE = machine(kv_blocks=4000, host_kv_blocks=8000, max_step_tokens=1 << 20)
NO_HOST = machine(kv_blocks=80, host_kv_blocks=0, max_seqs=16, max_step_tokens=512)


def offered(seed: int = 0, n: int = 45) -> list[Ask]:
    """Far more than the tight machines can hold at a time."""
    return random_asks(np.random.default_rng(seed), n, prompt=400, output=200, rate=40.0)


@dataclass
class Recorder:
    """A policy that asks another one, and keeps real copies of what it saw and what it got."""

    inner: Policy
    views: list[View] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)

    def plan(self, view: View) -> Plan:
        before = contents(view)
        until_s = view.read_until_s.copy()
        seen = view._replace(readers=lambda: until_s, **{name: getattr(view, name).copy() for name in arrays(view)})
        plan = self.inner.plan(view)
        assert contents(view) == before, "plan() changed its view"
        self.views.append(seen)
        self.plans.append(plan)
        return plan


def arrays(view: View) -> list[str]:
    return [name for name in View._fields if isinstance(getattr(view, name), np.ndarray)]


def contents(view: View) -> list[object]:
    values = [view.read_until_s, *(getattr(view, name) for name in View._fields if name != "readers")]
    return [value.tobytes() if isinstance(value, np.ndarray) else value for value in values]


def orders(plan: Plan) -> list[object]:
    values = list(plan)
    return [value.tolist() if isinstance(value, np.ndarray) else value for value in values]


@pytest.fixture(params=VARIANTS)
def policy(request: pytest.FixtureRequest) -> Policy:
    return VARIANTS[request.param]()


@pytest.mark.parametrize("on", [TIGHT, AMPLE, NO_HOST], ids=["tight", "ample", "no host"])
def test_everybody_finishes(policy: Policy, on: Machine) -> None:
    """No starvation, no wedge, no illegal plan; with much or little memory, with and without a host pool."""
    asks = offered()
    ran = run_engine(asks, policy, on)
    assert (ran.records.fate == Fate.COMPLETED).all()
    assert ran.records.tokens.tolist() == [ask.output for ask in asks]


def test_a_request_as_large_as_the_pool_is_served_among_small_ones(policy: Policy) -> None:
    """However many small requests come later, the one that needs all the memory gets its turn before they are all through."""
    asks = [Ask(0.0, 100, 60), Ask(0.1, 900, 380)] + [Ask(0.2 + 0.2 * i, 60, 60) for i in range(70)]
    ran = run_engine(asks, policy, TIGHT)
    assert ran.records.first_s[1] < np.median(ran.records.first_s)


def test_the_view_is_not_touched_and_the_same_views_give_the_same_plans(policy: Policy) -> None:
    """Replayed from copies into a fresh copy of the policy: private state is a function of the views alone."""
    fresh = copy.deepcopy(policy)
    recorder = run_engine(offered(1, 40), Recorder(policy), TIGHT).policy
    assert isinstance(recorder, Recorder)
    assert len(recorder.views) > 50
    for view, plan in zip(recorder.views, recorder.plans):
        for name in arrays(view):
            getattr(view, name).flags.writeable = False
        assert orders(fresh.plan(view)) == orders(plan)


def test_a_plan_is_its_own(policy: Policy) -> None:
    """Nothing in a plan is a window on the view: the engine's rows move under it."""
    asks = offered(2, 20)

    class Aliases(Log):
        def decided(self, engine: Any, view: View, plan: Plan) -> None:
            for name in ("decode", "offload", "drop", "load", "store", "forget"):
                assert not np.shares_memory(getattr(plan, name), view.id), name
            super().decided(engine, view, plan)
    run_engine(asks, policy, TIGHT, watch=Aliases())


def test_repr_pickle_and_equality(policy: Policy) -> None:
    names = {**vars(policies), "inf": inf, "nan": nan}
    used = run_engine(offered(3, 20), policy, TIGHT).policy
    for other in (eval(repr(policy), names), pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy), used):
        assert type(other) is type(policy)
        assert other == policy
        assert repr(other) == repr(policy)
    assert isinstance(policy, Policy)


def test_a_run_leaves_the_policy_alone(policy: Policy) -> None:
    """A used policy object starts its next run afresh."""
    first, second = (run_engine(offered(4, 20), policy, TIGHT) for _ in range(2))
    assert first.log.plans == second.log.plans


def test_the_random_policy_keeps_the_contract_too() -> None:
    """It steers other engines in tests: the same views must give it the same plans."""
    policy = RandomPolicy(7)
    recorder = run_engine(offered(1, 15), Recorder(policy), machine(kv_blocks=200, host_kv_blocks=200, max_seqs=16)).policy
    assert isinstance(recorder, Recorder)
    fresh = copy.deepcopy(policy)
    assert [orders(fresh.plan(view)) for view in recorder.views] == [orders(plan) for plan in recorder.plans]
    for name in ("decode", "prefill", "offload", "drop", "load", "store", "forget"):
        assert sum(len(getattr(plan, name)) for plan in recorder.plans) >= 3, name
