"""VTC's counters by hand, the lift, and whom they put first."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
from builders import FAST, Ask, machine, run_engine, view_of

from policies import SGLang, Vtc
from policies.api import Residency, View
from sim import simulate
from sim.machine import Machine
from sim.records import Fate
from traces import Trace, generate

NONE, GPU = Residency.NONE, Residency.GPU


def on(**changes: Any) -> Machine:
    return machine(**{"kv_blocks": 400, "max_step_tokens": 1 << 20} | changes)


def asked(policy: Vtc, *views: View) -> Vtc:
    for view in views:
        policy.plan(view)
    return policy


def start(**changes: Any) -> View:
    return view_of(on(), 0.0, [100, 200], [0, 0], [NONE, NONE], **{"decode_tokens": 0} | changes)


def test_prompts_are_charged_on_admission_outputs_as_they_come() -> None:
    policy = asked(Vtc(), start())
    assert policy._served == {0: 100, 1: 200}
    asked(policy, view_of(on(), 1.0, [100, 200], [1, 1], [GPU] * 2, decode_tokens=0))
    assert policy._served == {0: 102, 1: 202}, "the prefill's tokens"
    asked(policy, view_of(on(), 2.0, [100, 200], [31, 11], [GPU] * 2, decode_tokens=40))
    assert policy._served == {0: 162, 1: 222}
    begun = view_of(on(), 1.0, [100, 200], [1, 1], [GPU] * 2, decode_tokens=0)
    other = asked(Vtc(input_weight=0.5, output_weight=3.0), start(), begun)
    assert other._served == {0: 53, 1: 103}


def test_a_weight_of_two_counts_half() -> None:
    policy = asked(Vtc(), start(priority=[2.0, 0.5]))
    assert policy._served == {0: 50, 1: 400}
    shared = asked(Vtc(clients="class"), start(priority=[2.0, 2.0]))
    assert shared._served == {2.0: 150}


def test_who_is_gone_is_charged_for_what_nobody_else_put_out() -> None:
    """Of 50 tokens decoded since, the one who stays made 20."""
    policy = asked(Vtc(clients="class"), start(priority=[1.0, 4.0]),
                   view_of(on(), 1.0, [100, 200], [1, 1], [GPU] * 2, decode_tokens=0, priority=[1.0, 4.0]),
                   view_of(on(), 2.0, [200], [21], [GPU], decode_tokens=50, priority=[4.0], ids=[1]))
    assert policy._served == {1.0: 102 + 2 * 30, 4.0: (202 + 2 * 20) / 4}
    own = asked(Vtc(), start(), view_of(on(), 2.0, [200], [21], [GPU], decode_tokens=50, ids=[1]))
    assert list(own._served) == [1], "a request's counter goes with it"


def test_a_newcomer_is_lifted_to_the_least_of_those_who_queue() -> None:
    small = on(kv_blocks=20)
    begun = view_of(small, 0.0, [200, 200], [0, 0], [NONE] * 2, max_tokens=50, priority=[1.0, 4.0], decode_tokens=0)
    policy = asked(Vtc(clients="class"), begun)
    assert policy._served == {1.0: 200, 4.0: 0}, "there is room for one"
    policy._served[4.0] = 70.0
    later = view_of(small, 1.0, [200, 200, 10, 10], [1, 0, 0, 0], [GPU, NONE, NONE, NONE], priority=[1.0, 4.0, 9.0, 1.0],
                    decode_tokens=0, max_tokens=50)
    asked(policy, later)
    assert policy._served == {1.0: 202, 4.0: 70, 9.0: 70}, "it comes without credit; 1.0 has had more than that"


def test_with_nobody_in_the_queue_a_newcomer_is_lifted_to_who_left_it_last() -> None:
    weights = {"priority": [1.0, 2.0], "decode_tokens": 20}
    policy = asked(Vtc(clients="class"), start(priority=[1.0, 2.0]), view_of(on(), 1.0, [100, 200], [11, 11], [GPU] * 2, **weights),
                   view_of(on(), 2.0, [100, 200, 16], [11, 11, 0], [GPU, GPU, NONE], decode_tokens=20, priority=[1.0, 2.0, 8.0]))
    assert policy._left[0] == 8.0
    assert policy._served == {1.0: 122, 2.0: 111, 8.0: 111 + 2}, "that of weight 2 was the last"


def test_the_least_served_class_goes_next() -> None:
    """Light ones count four times: of sixteen who wait, the heavy class is admitted four times as often."""
    waiting = view_of(on(), 0.0, [100] * 16, [0] * 16, [NONE] * 16, priority=[1.0, 4.0] * 8, decode_tokens=0)
    policy = Vtc(clients="class")
    policy._join(waiting)
    order = policy._queue(waiting, np.arange(16)).tolist()
    assert order == [0, 1, 3, 5, 7, 2, 9, 11, 13, 15, 4, 6, 8, 10, 12, 14]
    served = {1.0: 0.0, 4.0: 0.0}
    for row in order:
        weight = (1.0, 4.0)[row % 2]
        left = {(1.0, 4.0)[other % 2] for other in order[order.index(row):]}
        assert served[weight] == min(served[each] for each in left), "one by one: the least of those who have any left"
        served[weight] += 100 / weight


def test_each_request_its_own_client_keeps_the_order_of_arrival() -> None:
    """But for the retracted: they have been served."""
    asks = [Ask(0.2 * i, 150, 250, 20.0) for i in range(40)]
    calm = [run_engine(asks, make(), on(kv_blocks=2000)).log.batches for make in (SGLang, Vtc)]
    assert calm[0] == calm[1]
    tight = on(latency=FAST, kv_blocks=100)
    first, second = (run_engine(asks, make(schedule_conservativeness=0.2), tight) for make in (SGLang, Vtc))
    assert first.engine.count.drops > 0
    assert first.log.batches != second.log.batches
    assert (second.records.fate == Fate.COMPLETED).all()
    assert (np.diff(second.records.first_s) >= 0).all()
    assert second.records.first_s.mean() < first.records.first_s.mean(), "the retracted wait instead"


def test_with_one_class_it_is_sglang() -> None:
    asks = [Ask(0.2 * i, 150, 250, 20.0) for i in range(40)]
    tight = on(latency=FAST, kv_blocks=100)
    one, other = (run_engine(asks, policy, tight) for policy in (SGLang(schedule_conservativeness=0.2),
                                                                 Vtc(schedule_conservativeness=0.2, clients="class")))
    assert one.log.batches == other.log.batches
    assert one.engine.count.drops > 0


def two_classes() -> Trace:
    """A burst of light ones, then one of heavy ones who would wait behind them."""
    both = np.arange(80) >= 40
    trace = generate(80, input_len="constant:200", output_len="constant:300", seed=1)
    return replace(trace, arrival_s=np.where(both, 0.5, 0.0), priority=np.where(both, 4.0, 1.0))


def test_classes_share_what_first_come_first_served_gives_to_whoever_was_first() -> None:
    trace = two_classes()
    first_s = {}
    for policy in (SGLang(), Vtc(), Vtc(clients="class")):
        requests = simulate(policy, trace, "rtx4090", "llama3-8b", kv_tokens=4000).requests
        first_s[repr(policy)] = [float(requests["ttft_s"][half].mean()) for half in (slice(0, 40), slice(40, 80))]
    fcfs, own, classes = first_s.values()
    assert classes[1] < 0.7 * fcfs[1], "the heavy class does not wait for all of the light one"
    assert classes[0] > fcfs[0]
    assert own[1] > 0.9 * fcfs[1]


@pytest.mark.parametrize("arm", [{"clients": "request"}, {"output_weight": 0.0}, {"input_weight": 30.0}], ids=str)
def test_every_field_has_its_effect(arm: dict[str, Any]) -> None:
    """Light ones with long prompts and short answers beside heavy ones who ask little and get much."""
    trace, heavy = two_classes(), np.arange(80) >= 40
    trace = replace(trace, input_tokens=np.where(heavy, 50, 600), output_tokens=np.where(heavy, 500, 60))
    plain, changed = (simulate(Vtc(**{"clients": "class", **fields}), trace, "rtx4090", "llama3-8b", kv_tokens=4000).requests
                      for fields in ({}, arm))
    assert plain["ttft_s"].tolist() != changed["ttft_s"].tolist()


@pytest.mark.parametrize(("fields", "why"), [
    ({"input_weight": -1.0}, "input_weight=-1.0: must be a finite number not below zero"),
    ({"output_weight": inf}, "output_weight=inf"),
    ({"clients": "user"}, "clients=user: must be"), ({"clip_tokens": 0}, "clip_tokens=0")])
def test_impossible_fields(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Vtc(**fields)
