"""FastServe's queues by hand; then the policy: who runs, who is swapped out, who comes back."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
from builders import FAST, Ask, Log, machine, run_engine, view_of

from policies import FastServe
from policies.api import Plan, Residency, View
from policies.levels import Levels
from sim.engine import Engine
from sim.latency import LatencyModel
from sim.machine import Machine
from sim.records import Fate

NONE, GPU, HOST = Residency.NONE, Residency.GPU, Residency.HOST
TOKEN_MS = LatencyModel(1e-9, 1e-3, 0.0, 0.0, 0.0, 1.0)     # 1 ms a token


def on(**changes: Any) -> Machine:
    return machine(**{"latency": TOKEN_MS, "kv_blocks": 100, "host_kv_blocks": 100, "max_step_tokens": 1 << 20} | changes)


# ---- the queues


def test_a_newcomer_skips_the_queues_whose_quantum_is_shorter_than_its_prefill() -> None:
    view = view_of(on(), 0.0, [1, 9, 11, 19, 39, 41, 700], [0] * 7, [NONE] * 7)
    levels = Levels(0.01)
    levels.observe(view)
    assert levels.level.tolist() == [0, 0, 1, 1, 2, 3, 7], "10, 20, 40, 80 ... 1280 ms"
    assert levels.order().tolist() == [0, 1, 2, 3, 4, 5, 6]
    finer = Levels(0.005)
    finer.observe(view)
    assert finer.level.tolist() == [0, 1, 2, 2, 3, 4, 8]


def stepped(levels: Levels, output: list[int], decode_s: float, ids: list[int] | None = None) -> None:
    """A View in which these outputs are there after so many seconds of decoding."""
    n = len(output)
    levels.observe(view_of(on(), 1.0 + decode_s, [5] * n, output, [GPU if o else NONE for o in output], decode_s=decode_s, ids=ids))


def test_who_has_used_its_quantum_goes_to_the_tail_of_the_next_queue() -> None:
    levels = Levels(0.01)
    stepped(levels, [1, 1, 0], 0.0)
    stepped(levels, [2, 1, 0], 0.008)
    assert (levels.level.tolist(), levels.used_s.tolist()) == ([0, 0, 0], [0.008, 0, 0]), "only who ran is charged"
    stepped(levels, [3, 1, 0], 0.012)
    assert levels.level.tolist() == [1, 0, 0]
    assert levels.used_s[0] == pytest.approx(0.002), "the rest counts in the next"
    assert levels.order().tolist() == [1, 2, 0]
    stepped(levels, [3, 2, 0], 0.030)
    assert levels.level.tolist() == [1, 1, 0], "18 ms: the first quantum and 8 ms of the second"
    assert levels.order().tolist() == [2, 0, 1], "behind who came before"


def test_several_quanta_at_once_are_the_same_as_one_by_one() -> None:
    often, seldom = Levels(0.01), Levels(0.01)
    for levels, moments in ((often, range(101)), (seldom, (0, 100))):
        for i in moments:
            stepped(levels, [1 + i], 0.005 * i)
    assert often.level.tolist() == seldom.level.tolist() == [5], "10 + 20 + ... + 160 = 310 ms of 500"
    assert often.used_s.item() == pytest.approx(seldom.used_s.item())
    assert seldom.used_s.item() == pytest.approx(0.19)


def test_the_starved_go_back_to_the_first_queue_in_their_order() -> None:
    levels = Levels(0.01)
    stepped(levels, [1, 1, 1, 0], 0.0)
    stepped(levels, [2, 1, 1, 0], 0.05)
    stepped(levels, [2, 2, 1, 0], 0.10)
    stepped(levels, [2, 2, 2, 0], 0.50)
    assert levels.level.tolist() == [2, 2, 5, 0], "50 ms are 30 and 20 more, 400 ms are 310 and 90 more"
    levels.promote(np.array([True] * 4), before_s=1.2)
    assert levels.level.tolist()[:2] == [0, 0], "not since 1.05 and 1.10 s"
    assert levels.level[2] > 2, "it ran at 1.50 s"
    assert levels.order().tolist() == [3, 0, 1, 2], "the newcomer was there first"


def test_until_somebody_is_overtaken() -> None:
    levels = Levels(0.01)
    stepped(levels, [1, 1, 0], 0.0)
    stepped(levels, [2, 1, 0], 0.004)
    levels.level[2] = 3
    both = np.array([0, 1])
    assert levels.until_overtaken_s(both, 3) == pytest.approx(0.01 + 0.02 + 0.04 - 0.004, abs=2e-6), "to the tail of queue 3"
    assert levels.until_overtaken_s(both, 0) == pytest.approx(0.006, abs=2e-6), "to the queue behind"


def test_who_leaves_is_forgotten() -> None:
    levels = Levels(0.01)
    stepped(levels, [1, 1, 1], 0.0, [3, 4, 5])
    stepped(levels, [2, 2], 0.1, [4, 9])
    assert len(levels.level) == len(levels._id) == 2
    assert levels.level.tolist()[1] == 0


# ---- the policy


def asked(view: View, levels: list[int], **fields: Any) -> Plan:
    """Its plan with these requests in these queues, each queue in order of arrival."""
    policy = FastServe(**fields)
    policy._levels.observe(view)
    policy._levels.level[:] = levels
    return policy.plan(view)


def crowd(at: list[int], **changes: Any) -> View:
    """Contexts of 20 blocks on a GPU of 100; a newcomer's prompt takes 20 as well."""
    outputs = [0 if where == NONE else 30 for where in at]
    return view_of(on(**changes), 9.0, [316 if not o else 280 for o in outputs], outputs, at)


def test_the_lowest_queue_makes_way_the_last_of_it_first() -> None:
    plan = asked(crowd([GPU, GPU, GPU, GPU, NONE], kv_blocks=99), [2, 5, 5, 1, 0])
    assert plan.offload.tolist() == [2]
    assert not plan.prefill, "its blocks are not free yet"
    assert plan.decode.tolist() == [0, 1, 3]
    assert not len(asked(crowd([GPU, GPU, GPU, GPU, NONE], kv_blocks=99), [2, 5, 5, 1, 6]).offload), "who is last itself waits"


def test_the_batch_is_the_highest_queues() -> None:
    plan = asked(crowd([GPU, GPU, GPU, HOST]), [2, 5, 1, 0], max_batch_size=2)
    assert plan.load.tolist() == [3], "first of all"
    assert plan.decode.tolist() == [0, 2], "while it is under way there is a seat in the batch"
    assert not len(plan.offload), "who rests keeps its memory while nobody needs it"
    rests = asked(crowd([GPU, GPU, GPU]), [2, 5, 1], max_batch_size=2)
    assert rests.decode.tolist() == [0, 2]


def test_proactive_swapping_keeps_blocks_free_and_loads_ahead() -> None:
    full = crowd([GPU, GPU, GPU, GPU, GPU], kv_blocks=102)
    assert asked(full, [1, 2, 3, 4, 5]).offload.tolist() == [4], "2 of 5 blocks are free"
    assert not len(asked(full, [1, 2, 3, 4, 5], proactive=False).offload)
    ahead = crowd([GPU, GPU, HOST])
    assert asked(ahead, [1, 2, 3], max_batch_size=2).load.tolist() == [2]
    assert not len(asked(ahead, [1, 2, 3], max_batch_size=2, proactive=False).load)


def test_no_newcomers_while_the_host_is_nearly_full() -> None:
    view = crowd([GPU, HOST, HOST, HOST, HOST, NONE], host_kv_blocks=85)
    assert not asked(view, [0, 9, 9, 9, 9, 0]).prefill
    assert asked(view, [0, 9, 9, 9, 9, 0], host_reserve=0.05).prefill == ((5, 316),)


def test_with_the_host_full_nobody_makes_way() -> None:
    view = crowd([GPU, GPU, GPU, GPU, GPU, HOST], host_kv_blocks=20, kv_blocks=110)
    plan = asked(view, [5, 5, 5, 5, 5, 0], host_reserve=0.0)
    assert not len(plan.offload)
    assert not len(plan.drop)
    assert plan.decode.tolist() == [0, 1, 2, 3, 4]
    assert plan.wake_at_s == inf, "no queue can change that"


def test_it_is_asked_when_the_first_is_overtaken() -> None:
    plan = asked(crowd([GPU, GPU, GPU, GPU, NONE]), [2, 3, 3, 2, 3], starve_steps=700)
    assert plan.wake_at_s == pytest.approx(9.0 + 0.04, abs=1e-5)
    assert plan.wake_after_steps == 700 - 104
    assert asked(crowd([GPU, GPU]), [0, 0]).wake_at_s == inf, "nobody waits"


def burst(n: int = 60, prompt: int = 200, output: int = 300, rate: float = 20.0, seed: int = 0) -> list[Ask]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(prompt // 2, 3 * prompt // 2, n), rng.integers(output // 2, 3 * output // 2, n)
    return [Ask(0.02 * i, int(p), int(o), rate) for i, (p, o) in enumerate(zip(*lengths))]


SCARCE = machine(latency=FAST, kv_blocks=180, host_kv_blocks=4000, max_step_tokens=1 << 20)


def test_victims_are_swapped_not_computed_again() -> None:
    count = run_engine(burst(), FastServe(), SCARCE).engine.count
    assert count.offloads == count.loads > 50
    assert count.recomputed_tokens == count.drops == 0
    poor = run_engine(burst(), FastServe(), replace(SCARCE, host_kv_blocks=60))
    assert poor.engine.count.drops > 0
    assert (poor.records.fate == Fate.COMPLETED).all()


def test_short_answers_overtake_long_ones() -> None:
    """Three readers have memory for two; the long answers came first, the short one is through before either."""
    asks = [Ask(0.0, 300, 900), Ask(0.0, 300, 900), Ask(1.5, 300, 20)]
    ran = run_engine(asks, FastServe(), machine(latency=FAST, kv_blocks=130, max_step_tokens=1 << 20))
    ends = [ran.records.token_times_s(i)[-1] for i in range(3)]
    assert ends[2] < min(ends[:2])
    assert ran.engine.count.offloads > 0


def test_whoever_has_not_run_for_long_is_promoted() -> None:
    """A stream of short requests fills the batch; the old one goes on at times only because somebody looks for the starved."""
    asks = [Ask(0.0, 40, 400), *(Ask(1.0 + 0.02 * i, 40, 30) for i in range(1000))]
    longest_s = []
    for steps in (50, 1 << 30):
        policy = FastServe(max_batch_size=6, starve_s=1.0, starve_steps=steps)
        ran = run_engine(asks, policy, machine(latency=FAST, max_step_tokens=1 << 20))
        longest_s.append(float(np.diff(ran.records.token_times_s(0)).max()))
    assert longest_s[0] < 2.5, "a second, what 50 steps take, and its turn among the starved"
    assert longest_s[1] > 10


@pytest.mark.parametrize("arm", [
    {"quantum_s": 0.2}, {"starve_steps": 50, "starve_s": 0.3}, {"max_batch_size": 5}, {"host_reserve": 0.97}, {"proactive": False},
    {"max_prefill_tokens": 100}], ids=str)
def test_every_field_has_its_effect(arm: dict[str, Any]) -> None:
    plain, changed = (run_engine(burst(), FastServe(**fields), SCARCE) for fields in ({}, arm))
    assert plain.log.batches != changed.log.batches


def test_it_knows_nothing_of_buffers() -> None:
    """Readers ten times as fast: every batch is the same."""
    slow, fast = (run_engine([replace(ask, rate=rate) for ask in burst()], FastServe(), SCARCE) for rate in (5.0, 50.0))
    assert slow.log.batches == fast.log.batches


def test_the_batch_is_never_larger_than_asked_for() -> None:
    class Small(Log):
        def decided(self, engine: Engine, view: View, plan: Plan) -> None:
            super().decided(engine, view, plan)
            assert len(plan.decode) + len(plan.prefill) <= 5
    run_engine(burst(), FastServe(max_batch_size=5), SCARCE, watch=Small())


@pytest.mark.parametrize(("fields", "why"), [
    ({"quantum_s": 0.0}, "quantum_s=0.0: must be a finite number above zero"), ({"starve_s": inf}, "starve_s=inf"),
    ({"starve_steps": -1}, "starve_steps=-1"), ({"max_batch_size": 0}, "max_batch_size=0: must be above zero"),
    ({"host_reserve": 1.5}, "host_reserve=1.5: is a share"), ({"max_prefill_tokens": 0}, "max_prefill_tokens=0")])
def test_impossible_fields(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        FastServe(**fields)
