"""The code of Andes' authors, part by part against figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import machine, run_engine, view_of
from test_andes import SCARCE, burst

from policies import AndesCode
from policies.api import Residency, View
from policies.scene import Scene

NONE, GPU = Residency.NONE, Residency.GPU
SIZES = {"host_kv_blocks": 100, "max_step_tokens": 1 << 20}


def code_view() -> View:
    """At 10 s: one on time with 5 s to read, one behind, one who waits since 0, one since 9.5."""
    return view_of(machine(**SIZES, kv_blocks=60), 10.0, [100, 200, 100, 100], [240, 60, 0, 0], [GPU, GPU, NONE, NONE],
                   slack_s=[3.0, 0.0, 0.0, 0.0], arrival_s=[0.0, 0.0, 0.0, 9.5])


def test_the_codes_gains_by_hand() -> None:
    """20 s of 20 tokens are expected at the horizon from those of 0 s, 10.5 s of them from the last; 500 come in 10 s."""
    gain = AndesCode()._gains(Scene(code_view()))
    assert gain[0] == pytest.approx(1.1 * (1 - (1 - (160 / 400) ** 2)))
    assert gain[1] == pytest.approx(1.1 * (1 - (1 - (340 / 400) ** 2)))
    assert gain[2:].tolist() == [1, 1], "none is out, and by then one should be"
    assert AndesCode(horizon_s=0.4)._gains(Scene(code_view()))[3] == 0, "0.9 s after sending nothing is expected yet"
    slow = AndesCode(token_latency_s=0.1)._gains(Scene(code_view()))
    assert slow[2] == pytest.approx((100 / 400) ** 2)
    assert AndesCode(running_bonus=2.0)._gains(Scene(code_view()))[0] == pytest.approx(2 * gain[0] / 1.1)


def test_the_codes_slack_pays_for_victims() -> None:
    view = code_view()
    both = np.array([0, 1])
    slack_s = np.percentile([1 + 12 - 10, 1 + 3 - 10], 10)
    assert slack_s < 0
    assert AndesCode()._most_victims(view, both) == 0
    assert AndesCode()._most_victims(view, both[:1]) == int(3 / (340 * 3 / 90_000))
    assert AndesCode(preempt_tokens_per_s=250.0)._most_victims(view, both[:1]) == 2
    assert AndesCode()._most_victims(view, both[:0]) == 0


def test_the_codes_solver_divides_twice_and_stops_at_the_first_misfit() -> None:
    view = code_view()
    scene, policy = Scene(view), AndesCode()
    needs = np.array([4, 3, 9, 1])
    key = np.array([0.5, 0.9, 0.8, 0.1]) / 100
    rows = np.arange(4)                                     # contexts 340, 260, 100, 100
    assert [each.tolist() for each in policy._solve(scene, key, rows, 12, needs)] == [[2], [0]], "2, 1, 0 and 3: 0 does not fit"
    assert [each.tolist() for each in AndesCode(squared=False)._solve(scene, key, rows, 4, needs)] == [[], [0]], "1, not 2"


def test_the_code_victimises_who_is_worth_no_more_than_a_waiter_as_far_as_slack_pays() -> None:
    """Residents of 26 and 51 blocks on 79, both 3 s ahead; 7 blocks wait."""
    view = view_of(machine(**SIZES, kv_blocks=79), 12.0, [100, 500, 100], [300, 300, 0], [GPU, GPU, NONE], slack_s=[3.0, 3.0, 0.0])
    plan = AndesCode().plan(view)
    assert (plan.drop.tolist(), plan.prefill) == ([1], ((2, 100),)), "worth least per token"
    for kept in (AndesCode(running_bonus=100.0), AndesCode(preempt_tokens_per_s=100.0), AndesCode(watermark=1.0)):
        plan = kept.plan(view)
        assert (plan.drop.tolist(), plan.prefill, plan.decode.tolist()) == ([], (), [0, 1])
    swapped = AndesCode(swap=True).plan(view)
    assert (swapped.offload.tolist(), swapped.drop.tolist(), swapped.prefill) == ([1], [], ()), "once its blocks are free"


@pytest.mark.parametrize("arm", [
    {"squared": False}, {"running_bonus": 3.0}, {"preempt_tokens_per_s": 100.0}, {"token_latency_s": 0.2}, {"watermark": 0.2},
    {"swap": True}], ids=str)
def test_every_field_of_the_code_has_its_effect(arm: dict[str, Any]) -> None:
    asks = [replace(ask, arrival_s=0.02 * i) for i, ask in enumerate(burst())]
    plain, changed = (run_engine(asks, AndesCode(**fields), SCARCE) for fields in ({}, arm))
    assert plain.log.batches != changed.log.batches
