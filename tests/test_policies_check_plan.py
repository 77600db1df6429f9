"""`check_plan`: one illegal plan for each rule, what its message says, and a naive reading of the rules to agree with."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from itertools import chain
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from builders import FAST, machine
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import api
from policies.api import InvalidPlan, Plan, View, check_plan
from sim.beliefs import Beliefs

NONE, GPU, HOST, LOADING, EVICTING = range(5)
BS = 16


def view(rows: list[tuple[int, int, int, int, float]], **scalars: Any) -> View:
    """Rows of (prompt, output, computed, residency, host copy); ids 10, 20, ..."""
    n = len(rows)
    prompt, output, computed, at = (np.array([row[i] for row in rows], np.int64).reshape(n) for i in range(4))
    host = np.array([row[4] for row in rows], float).reshape(n)
    held = sum(-(-int(c) // BS) for c, a in zip(computed, at) if a in (GPU, LOADING, EVICTING))
    copies = sum(-(-int(c if a >= HOST else np.ceil(h)) // BS) for c, a, h in zip(computed, at, host))
    columns = {"id": 10 * np.arange(1, n + 1), "arrival_s": np.arange(n) * 0.1, "prompt_tokens": prompt, "output_tokens": output,
               "max_tokens": output + 100, "computed_tokens": computed, "host_tokens": host, "residency": at,
               "consumption_rate": np.full(n, 20.0), "readers": lambda: np.full(n, 9.0), "preemptions": np.zeros(n, np.int64),
               "moved_s": np.zeros(n), "priority": np.ones(n), "ttft_slo_s": np.full(n, nan), "tpot_slo_s": np.full(n, nan),
               "reader": np.ones(n, np.int64)}
    numbers = dict.fromkeys(View._fields, 0) | {"now_s": 8.0, "free_blocks": 20, "host_free_blocks": 20, "block_size": BS,
                                                   "max_seqs": 64, "max_step_tokens": 256, "cost": Beliefs(machine(latency=FAST)),
                                                   "held": None}
    v = View(**(numbers | columns | scalars))
    return v._replace(total_blocks=held + v.free_blocks, host_total_blocks=copies + v.host_free_blocks)


#: a decoder with 15 tokens of KV, one at the end of its block and half copied, a half-done prompt, a newcomer, one on the host,
#: one loading, one evicting, a decoder with a complete copy
ROWS = [(10, 6, 15, GPU, 0), (30, 3, 32, GPU, 20.5), (50, 0, 20, GPU, 0), (40, 0, 0, NONE, 0), (20, 5, 24, HOST, 24),
        (20, 5, 24, LOADING, 24), (20, 5, 24, EVICTING, 10), (20, 13, 32, GPU, 32)]


def ids(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


LEGAL = Plan(decode=ids(10, 20), prefill=((30, 10), (40, 40)), offload=ids(80), load=ids(50), store=ids(20, 30, 60))

#: the rule, the plan that breaks exactly this one, requests and numbers of the message, what differs in the view
BROKEN = [
    ("orders are arrays of whole numbers", Plan(decode=np.array([0.5])), "all", "array([0.5])", {}),
    ("orders are arrays of whole numbers", Plan(store=[10]), "all", "[10]", {}),     # type: ignore[arg-type]
    ("known ids", Plan(decode=ids(10, 99)), "[99]", "not in the view", {}),
    ("known ids", Plan(load=ids(15)), "[15]", "not in the view", {}),
    ("decode lists each request once, ids ascending", Plan(decode=ids(20, 10)), "[10]", "[20]", {}),
    ("decode lists each request once, ids ascending", Plan(decode=ids(10, 10)), "[10]", "[10]", {}),
    ("only residents decode", Plan(decode=ids(10, 50)), "[50]", "[2]", {}),
    ("only residents decode", Plan(decode=ids(60, 70)), "[60, 70]", "[3, 4]", {}),
    ("only the prefilled decode", Plan(decode=ids(30)), "[30]", "[30]", {}),
    ("a chunk is part of what remains", Plan(prefill=((30, 31),)), "[30]", "[31]", {}),
    ("a chunk is part of what remains", Plan(prefill=((40, 0),)), "[40]", "[0]", {}),
    ("prefill needs its KV on the GPU or none", Plan(prefill=((50, 1),)), "[50]", "[2]", {}),
    ("only KV on the host is loaded", Plan(load=ids(50, 60)), "[60]", "[3]", {}),
    ("only KV on the GPU or the host is dropped", Plan(drop=ids(10, 40)), "[40]", "[0]", {}),
    ("only residents with KV are offloaded", Plan(offload=ids(50)), "[50]", "[2]", {}),
    ("one order per request", Plan(decode=ids(10), drop=ids(10)), "[10]", "[2]", {}),
    ("one order per request", Plan(load=ids(50), drop=ids(50)), "[50]", "[2]", {}),
    ("one order per request", Plan(prefill=((30, 1), (30, 2))), "[30]", "[2]", {}),
    ("tokens of a step", Plan(decode=ids(10), prefill=((30, 30),)), "all", "31 of 30", {"max_step_tokens": 30}),
    ("requests that hold GPU blocks", Plan(prefill=((40, 1),), load=ids(50)), "all", "8 of 7", {"max_seqs": 7}),
    ("requests that hold GPU blocks", Plan(load=ids(50), offload=ids(20)), "all", "7 of 6", {"max_seqs": 6}),
    ("GPU blocks", Plan(decode=ids(10, 20), prefill=((30, 13),)), "all", "2 of 1", {"free_blocks": 1}),
    ("GPU blocks", Plan(load=ids(50), offload=ids(20)), "all", "2 of 1", {"free_blocks": 1}),
    ("only residents, and who comes back, are written through", Plan(store=ids(10, 70)), "[70]", "[4]", {}),
    ("only residents, and who comes back, are written through", Plan(store=ids(50)), "[50]", "[2]", {}),
    ("only residents' copies are forgotten", Plan(forget=ids(20, 50)), "[50]", "[2]", {}),
    ("store, offload, forget and drop exclude each other", Plan(store=ids(20), forget=ids(20)), "[20]", "[2]", {}),
    ("store, offload, forget and drop exclude each other", Plan(store=ids(10, 10)), "[10]", "[2]", {}),
    ("store, offload, forget and drop exclude each other", Plan(store=ids(10), drop=ids(10)), "[10]", "[2]", {}),
    ("host blocks", Plan(store=ids(10)), "all", "1 of 0", {"host_free_blocks": 0}),
    ("host blocks", Plan(decode=ids(20), store=ids(20)), "all", "1 of 0", {"host_free_blocks": 0}),
    ("host blocks", Plan(offload=ids(10), store=ids(30)), "all", "3 of 2", {"host_free_blocks": 2}),
    ("wake in the future", Plan(wake_at_s=8.0), "all", "at 8.0 s or after 0 steps, now 8.0 s", {}),
    ("wake in the future", Plan(wake_at_s=nan), "all", "at nan s or after 0 steps, now 8.0 s", {}),
    ("wake in the future", Plan(wake_after_steps=-1), "all", "at inf s or after -1 steps, now 8.0 s", {}),
    ("wake in the future", Plan(wake_after_steps=1.5), "all", "at inf s or after 1.5 steps, now 8.0 s", {}),     # type: ignore[arg-type]
    ("prefill is pairs of whole numbers", Plan(prefill=((30, 1.5),)), "all", "[(30, 1.5)]", {}),     # type: ignore[arg-type]
    ("until is flags of Event", Plan(until=32), "all", "32", {}),
]


def test_the_plan_that_the_others_differ_from_is_legal() -> None:
    check_plan(view(ROWS), LEGAL)
    check_plan(view(ROWS), Plan())
    check_plan(view([]), Plan())


@pytest.mark.parametrize(("rule", "plan", "requests", "numbers", "changes"), BROKEN,
                         ids=[f"{i} {case[0]}" for i, case in enumerate(BROKEN)])
def test_each_rule_says_which_request_and_by_what_numbers(rule: str, plan: Plan, requests: str, numbers: str,
                                                          changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidPlan) as caught:
        check_plan(view(ROWS, **changes), plan)
    assert str(caught.value) == f"illegal plan: {rule}: requests {requests}, {numbers}"
    assert str(type(caught.value)(*caught.value.args)) == str(caught.value), "simpy makes exceptions anew from their args"


def test_every_rule_in_the_source_has_its_case() -> None:
    source = ast.parse(inspect.getsource(api))
    calls = [node for node in ast.walk(source) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
             and node.func.id in ("_each", "_within", "InvalidPlan")]
    texts = {node.value for call in calls for node in call.args if isinstance(node, ast.Constant)}
    assert texts - {"all", "not in the view"} == {case[0] for case in BROKEN}


@pytest.mark.parametrize("plan", [LEGAL, Plan(decode=ids(10, 20)), Plan(drop=ids(50), forget=ids(80)), Plan()],
                         ids=["all orders", "the earliest", "no decodes", "nothing"])
def test_says_in_which_rows_a_plan_names_whom(plan: Plan) -> None:
    v = view(ROWS)
    orders = check_plan(v, plan)
    for name in ("decode", "offload", "drop", "load", "store", "forget"):
        assert v.id[getattr(orders, name)].tolist() == getattr(plan, name).tolist(), name
    assert tuple(zip(v.id[orders.prefill].tolist(), orders.chunk.tolist())) == plan.prefill


@pytest.mark.parametrize("freed", [Plan(offload=ids(80), load=ids(50)), Plan(drop=ids(80), load=ids(50))], ids=["offload", "drop"])
def test_blocks_freed_at_once_count(freed: Plan) -> None:
    """A complete copy leaves at once, a dropped request too; whoever must be written first does not."""
    check_plan(view(ROWS, free_blocks=0, max_seqs=6), freed)
    with pytest.raises(InvalidPlan, match="GPU blocks"):
        check_plan(view(ROWS, free_blocks=0), Plan(offload=ids(20), load=ids(50)))


# ---- a naive reading

def legal(v: View, plan: Plan) -> bool:
    """The rules of the waist, request by request."""
    row = {int(id): i for i, id in enumerate(v.id)}
    lists = [plan.decode.tolist(), [id for id, _ in plan.prefill], plan.load.tolist(), plan.drop.tolist(), plan.offload.tolist()]
    copies = [plan.store.tolist(), plan.forget.tolist(), plan.offload.tolist(), plan.drop.tolist()]
    if any(id not in row for part in lists + copies for id in part):
        return False
    at = {id: int(v.residency[i]) for id, i in row.items()}
    kv = {id: int(v.computed_tokens[i]) for id, i in row.items()}
    left = {id: int(v.prompt_tokens[i] + v.output_tokens[i]) - kv[id] for id, i in row.items()}
    copy = {id: float(v.host_tokens[i]) for id, i in row.items()}

    def blocks(tokens: float) -> int:
        return -int(-tokens // BS)

    if lists[0] != sorted(set(lists[0])) or max(Counter(chain(*lists)).values(), default=1) > 1:
        return False
    if any(at[id] != GPU or left[id] != 1 for id in plan.decode.tolist()):
        return False
    if any(at[id] not in (NONE, GPU) or not 0 < n <= left[id] for id, n in plan.prefill):
        return False
    if any(at[id] != HOST for id in lists[2]) or any(at[id] != GPU for id in lists[4]):
        return False
    if any(at[id] not in (GPU, HOST) for id in lists[3]):
        return False
    if len(plan.decode) + sum(n for _, n in plan.prefill) > v.max_step_tokens:
        return False
    gone = {id for id in lists[3] if at[id] == GPU} | {id for id in lists[4] if copy[id] >= kv[id]}
    after = {id: kv[id] + (id in lists[0]) + dict(plan.prefill).get(id, 0) for id in row}
    on_gpu = {id for id in row if at[id] in (GPU, LOADING, EVICTING)} - gone | set(lists[1]) | set(lists[2])
    if len(on_gpu) > v.max_seqs or sum(blocks(after[id]) for id in on_gpu) > v.total_blocks:
        return False
    if plan.store.size or plan.offload.size or plan.forget.size:
        if max(Counter(chain(*copies)).values(), default=1) > 1 or any(at[id] != GPU for id in copies[1]):
            return False
        if any(at[id] not in (GPU, LOADING) and id not in lists[2] for id in copies[0]):
            return False
        held = 0
        for id in row:
            if id in copies[0] or id in copies[2]:
                held += blocks(after[id])
            elif id not in copies[1] and id not in copies[3]:
                held += blocks(kv[id] if at[id] >= HOST else copy[id])
        if held > v.host_total_blocks:
            return False
    return plan.wake_at_s > v.now_s and plan.wake_after_steps >= 0


PLACES = st.sampled_from([NONE, GPU, GPU, GPU, HOST, LOADING, EVICTING])


@st.composite
def some_row(draw: st.DrawFn) -> tuple[int, int, int, int, float]:
    prompt, output, at = draw(st.integers(1, 40)), draw(st.integers(0, 20)), draw(PLACES)
    most = prompt + output - 1
    if at == NONE or not most:
        return prompt, output, 0, NONE, 0.0
    kv = draw(st.one_of(st.just(most), st.integers(1, most)))
    return prompt, output, kv, at, float(kv) if at in (HOST, LOADING) else draw(st.integers(0, 2 * kv)) / 2


@st.composite
def situations(draw: st.DrawFn) -> tuple[View, Plan]:
    rows = draw(st.lists(some_row(), max_size=6))
    on_gpu = sum(row[3] in (GPU, LOADING, EVICTING) for row in rows)
    v = view(rows, free_blocks=draw(st.integers(0, 4)), host_free_blocks=draw(st.integers(0, 4)),
             max_seqs=draw(st.integers(max(on_gpu, 1), 8)), max_step_tokens=draw(st.sampled_from([4, 30, 500])))
    known = st.sampled_from([*v.id.tolist(), 10])
    part = st.lists(known, max_size=3).map(lambda some: ids(*some))
    ready = [int(id) for id, left, at in zip(v.id, v.remaining_tokens, v.residency) if left == 1 and at == GPU]
    able = st.sets(st.sampled_from(ready or [10]), max_size=4).map(lambda some: ids(*sorted(some)))
    rare = st.one_of(st.just(ids()), part)
    chunks = st.lists(st.tuples(known, st.integers(0, 40)), max_size=2).map(tuple)
    plan = Plan(decode=draw(st.one_of(st.just(ids(*ready)), able, part)), prefill=draw(chunks), offload=draw(rare), drop=draw(rare),
                load=draw(rare), store=draw(rare), forget=draw(rare), wake_at_s=draw(st.sampled_from([inf, 9.0, 9.0, 8.0])))
    return v, plan


def verdict(v: View, plan: Plan) -> bool:
    try:
        check_plan(v, plan)
    except InvalidPlan:
        return False
    return True


@settings(max_examples=300, deadline=None, derandomize=True)
@given(situation=situations())
def test_agrees_with_a_naive_reading(situation: tuple[View, Plan]) -> None:
    assert verdict(*situation) == legal(*situation)
