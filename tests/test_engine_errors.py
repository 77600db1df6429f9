"""A policy that does nothing, raises or plans the impossible ends the run with one line that says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import Ask, machine, run_engine

from policies.api import Plan, Residency, View
from sim.errors import BadInput, PolicyError, Wedged

ASKS = [Ask(0.0, 8, 5), Ask(0.5, 8, 5)]


@dataclass
class Fixed:
    """Prefills whoever is new, then answers what it was given."""

    answer: Callable[[View], Any]

    def plan(self, view: View) -> Any:
        new = view.id[view.residency == Residency.NONE]
        return Plan(prefill=tuple((int(id), 8) for id in new)) if len(new) else self.answer(view)


def told(answer: Callable[[View], Any], error: type[BadInput]) -> str:
    """The message that ends a run under this policy."""
    with pytest.raises(error) as caught:
        run_engine(ASKS, Fixed(answer), machine())
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("policy Fixed: ")
    return message


def soon(view: View) -> float:
    return float(np.nextafter(view.now_s, np.inf))


def test_doing_nothing_is_a_wedge() -> None:
    assert "wedged with 2 requests unfinished: nothing runs, nothing moves" in told(lambda view: Plan(), Wedged)


@pytest.mark.unaudited
def test_waking_for_ever_is_a_wedge() -> None:
    assert "10000 decisions in a row" in told(lambda view: Plan(wake_at_s=soon(view)), Wedged)


@pytest.mark.unaudited
def test_moving_to_and_fro_for_ever_is_a_wedge() -> None:
    def swap(view: View) -> Plan:
        at = view.residency
        return Plan(offload=view.id[at == Residency.GPU], load=view.id[at == Residency.HOST])
    assert "10000 decisions in a row" in told(swap, Wedged)


def test_waiting_long_for_a_copy_is_no_wedge() -> None:
    """Decisions that merely wait count, but ten thousand of them are many."""
    def wait(view: View) -> Plan:
        at = view.residency
        if (view.output_tokens == 3).any() and (at == Residency.GPU).all() and not view.preemptions.any():
            return Plan(offload=view.id)
        if (at >= Residency.LOADING).any():
            return Plan(wake_at_s=view.now_s + 0.001)
        return Plan(decode=view.id[at == Residency.GPU], load=view.id[at == Residency.HOST], wake_after_steps=1)
    ran = run_engine([Ask(0.0, 8, 5)] * 2, Fixed(wait), machine(d2h_bytes_per_s=2e6, h2d_bytes_per_s=2e6))
    assert ran.engine.count.loads == 2
    assert ran.engine.count.decisions > 2000


def raising(view: View) -> Plan:
    raise KeyError("no such\nthing")


def test_a_raise_is_told_with_its_line() -> None:
    line = raising.__code__.co_firstlineno + 1
    assert f"{Path(__file__).name}:{line} at 0.006" in told(raising, PolicyError)
    assert "KeyError: 'no such\\nthing'" in told(raising, PolicyError)


def test_an_illegal_plan_is_told_with_its_rule() -> None:
    message = told(lambda view: Plan(decode=np.array([0, 7])), PolicyError)
    assert message.endswith("illegal plan: known ids: requests [7], not in the view")


@pytest.mark.parametrize("answer", [None, (), "decode all", Plan], ids=repr)
def test_no_plan_at_all(answer: object) -> None:
    assert f"plan() returned {type(answer).__name__}, not a Plan" in told(lambda view: answer, PolicyError)


WRONG: list[dict[str, Any]] = [
    {"decode": [0]}, {"decode": None}, {"decode": np.array(["a"])}, {"decode": np.array([0.5])}, {"load": 5}, {"store": None},
    {"prefill": ((0,),)}, {"prefill": 3}, {"prefill": ((0, "all"),)}, {"prefill": ((0, 1.5),)}, {"until": "x"}, {"until": 2.5},
    {"wake_at_s": None}, {"wake_after_steps": 1.5},
]


@pytest.mark.parametrize("orders", WRONG, ids=repr)
def test_orders_of_the_wrong_kind(orders: dict[str, Any]) -> None:
    message = told(lambda view: Plan(**orders), PolicyError)
    assert "malformed plan: " in message or "illegal plan: " in message


def test_a_wedge_does_not_hide_in_an_idle_pause() -> None:
    """Requests far apart: the engine sleeps between them, which is no wedge."""
    ran = run_engine([Ask(0.0, 8, 5), Ask(1e6, 8, 5)], Fixed(lambda view: Plan(decode=view.id)), machine())
    assert ran.records.last_s[1] > 1e6
    assert ran.engine.count.decisions == 4


def test_prefill_that_is_thrown_away_for_ever_is_a_wedge() -> None:
    def again(view: View) -> Plan:
        if view.residency[0]:
            return Plan(drop=view.id, wake_at_s=float(np.nextafter(view.now_s, np.inf)))
        return Plan(prefill=((0, 4),))
    assert "steps in a row gave no token" in told(again, Wedged)


@pytest.mark.unaudited
@pytest.mark.parametrize("fault", [SystemExit(0), GeneratorExit()])
def test_a_policy_cannot_end_the_program(fault: BaseException) -> None:
    def leave(view: View) -> Plan:
        raise fault
    assert type(fault).__name__ in told(leave, PolicyError)
