"""Readers whose rate changes along the answer: at every decision they stand where reading token by token has brought them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import numpy as np
import pytest
from builders import EVEN, Ask, Rotate, machine, random_asks, random_machine, run_engine
from random_policy import RandomPolicy

from policies import POLICIES, Vllm
from policies.api import Plan, Policy, View
from sim import simulate, token_buffer
from traces import make_trace

MAKERS = {**POLICIES, "rotate": Rotate, "random": RandomPolicy}


@dataclass
class Noting:
    """Another policy, and what it saw of the readers."""

    policy: Policy
    seen: list[tuple[float, list[int], list[int], list[float], list[float]]] = field(default_factory=list)

    def plan(self, view: View) -> Plan:
        self.seen.append((view.now_s, view.id.tolist(), view.output_tokens.tolist(), view.read_until_s.tolist(),
                          view.consumption_rate.tolist()))
        return self.policy.plan(view)


def rate_of(ask: Ask, token: int) -> float:
    return next((rate for first, rate in reversed(ask.changes) if first <= token), ask.rate)


def reads(ask: Ask, times_s: list[float]) -> list[float]:
    """When each token is taken up: as soon as it is there and the one before has been read."""
    taken: list[float] = []
    for token, time_s in enumerate(times_s):
        taken.append(max(time_s, taken[-1] + 1 / rate_of(ask, token - 1)) if taken else time_s)
    return taken


@pytest.mark.parametrize("watched", [True, pytest.param(False, marks=pytest.mark.unaudited)])
@pytest.mark.parametrize("name", MAKERS)
def test_every_decision_sees_them_where_they_are(name: str, watched: bool) -> None:
    changed = 0
    for seed in range(6):
        rng = np.random.default_rng([seed, 7])
        asks = random_asks(rng, 40)
        ran = run_engine(asks, Noting(MAKERS[name]()), random_machine(rng, asks, tight=seed % 2 == 0), watched=watched)
        taken = [reads(ask, ran.records.token_times_s(id).tolist()) for id, ask in enumerate(asks)]
        assert isinstance(ran.policy, Noting)
        for _, ids, tokens, until_s, rates in ran.policy.seen:
            for id, got, until, rate in zip(ids, tokens, until_s, rates):
                assert until == pytest.approx(taken[id][got - 1] if got else -inf, abs=1e-7)
                assert rate == rate_of(asks[id], max(got - 1, 0)), "the rate of the newest token"
                changed += got > 0 and rate != asks[id].rate
    assert changed > 30


def test_a_change_ends_the_run_and_not_the_plan() -> None:
    """Three segments are three runs; a change that never comes, and none at all, are one."""
    def runs(*changes: tuple[int, float]) -> tuple[int, int]:
        count = run_engine([Ask(0.0, 8, 100, 20.0, changes=changes)], Vllm(), machine(latency=EVEN)).engine.count
        return count.runs, count.decisions
    plain, decisions = runs()
    assert runs((30, 10.0), (60, 5.0)) == (plain + 2, decisions)
    assert runs((100, 10.0)) == (plain, decisions)


def test_a_change_at_the_second_and_at_the_last_token() -> None:
    """Tokens come 1/64 s apart and are read as fast, but token 1 takes 1 s: token 9 is taken up 63/64 s late.

    The other request ends with token 9 of the first, so that the policy is asked then.
    """
    asks = [Ask(0.0, 8, 11, 64.0, changes=((1, 1.0), (2, 64.0), (9, 0.5))), Ask(0.0, 8, 10)]
    ran = run_engine(asks, Noting(Rotate(tick_s=9.0)), machine(latency=EVEN))
    assert isinstance(ran.policy, Noting)
    now_s, ids, tokens, until_s, rates = ran.policy.seen[-1]
    assert (ids, tokens, rates) == ([0], [10], [0.5])
    assert until_s == [pytest.approx(now_s + 63 / 64)]


def test_without_changes_nothing_is_counted() -> None:
    ran = run_engine([Ask(0.0, 8, 50)] * 3, Vllm(), machine())
    assert not ran.engine.requests.rate_changes
    assert ran.engine.decoders.to_change > 1 << 60


def test_who_is_gone_is_forgotten() -> None:
    ran = run_engine([Ask(0.1 * i, 8, 50, changes=((20, 5.0), (500, 9.0))) for i in range(5)], Vllm(), machine())
    assert not ran.engine.requests.rate_changes


def test_simulate_takes_paces_from_the_trace() -> None:
    """TokenFlow decides otherwise for readers who slow down, and the same in steps."""
    def last_tokens(rate: str, **options: bool) -> list[float]:
        trace = make_trace(np.repeat([0.0, 1.0], 12), 200, 400, consume_tps=rate)
        return simulate("tokenflow", trace, machine(kv_blocks=200), **options).records.last_s.tolist()
    assert last_tokens("20/4@50") != last_tokens("20")
    assert last_tokens("20/4@50") == pytest.approx(last_tokens("20/4@50", step_by_step=True), abs=1e-9)
    assert last_tokens("20/20@50") == pytest.approx(last_tokens("20"), abs=1e-9)


def test_delivery_at_several_rates_is_delivery_in_parts() -> None:
    """Settled at the change, a buffer goes on from there at the other rate."""
    ends = np.arange(1, 21) / 10
    ask = Ask(0.0, 1, 21, 30.0, changes=((8, 4.0),))
    until, since = np.array([0.0]), np.zeros(1, np.int64)
    for rate, steps in ((30.0, 8), (4.0, 20)):
        at = np.arange(float(since[0]), steps)
        until = token_buffer.deliver(until, np.array([rate]), since, steps, at, ends[at.astype(int)])
        since[:] = steps
    assert until[0] == pytest.approx(reads(ask, [0.0, *ends.tolist()])[-1])
