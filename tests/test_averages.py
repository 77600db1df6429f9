"""What prompts cost, alone and beside decodes, as TokenFlow learns it from what the engine counts."""

from __future__ import annotations

import numpy as np
import pytest
from test_tokenflow import overloaded_view

from policies.api import View
from policies.averages import Averages


def steps(view: View, prefill: tuple[int, float] = (0, 0.0), decode: tuple[int, float] = (0, 0.0)) -> View:
    """The View after one more prefill step of so many tokens and seconds, and so many decode steps."""
    return view._replace(prefill_steps=view.prefill_steps + (prefill[0] > 0), prefill_tokens=view.prefill_tokens + prefill[0],
                         prefill_s=view.prefill_s + prefill[1], decode_steps=view.decode_steps + decode[0],
                         decode_s=view.decode_s + decode[1], now_s=view.now_s + prefill[1] + decode[1])


@pytest.fixture
def start() -> tuple[Averages, View]:
    """After one prompt of 1,000 tokens, which went alone and took a second."""
    learnt, idle = Averages(), {"prefill_steps": 0, "prefill_tokens": 0, "prefill_s": 0.0, "decode_steps": 0, "decode_s": 0.0}
    view = overloaded_view()._replace(**idle)
    learnt.observe(view)
    view = steps(view, prefill=(1000, 1.0))
    learnt.observe(view)
    assert learnt.prefill_token_s(view) == pytest.approx(1e-3)
    return learnt, view


@pytest.mark.parametrize(("beside_s", "its_own_s"), [
    (0.02, 0.05),       # less what decoding alone takes
    (0.001, 0.069),
    (1e-9, 0.07),
    (0.06, 0.025),      # a quarter of what it takes alone, at least
    (0.0, 0.07)])       # nothing decoded
def test_what_decodes_take_is_not_the_prompts(start: tuple[Averages, View], beside_s: float, its_own_s: float) -> None:
    learnt, view = start
    learnt.beside_s = beside_s
    view = steps(view, prefill=(100, 0.07))
    learnt.observe(view)
    assert learnt.prefill_token_s(view) == pytest.approx((1.0 + its_own_s) / 1100)


def test_beside_decodes_prompts_cost_no_more_than_alone(start: tuple[Averages, View]) -> None:
    """However little decoding is believed to take."""
    learnt, view = start
    for _ in range(40):
        learnt.beside_s = 0.001
        view = steps(view, prefill=(10, 0.5))
        learnt.observe(view)
    assert learnt.prefill_token_s(view) == pytest.approx(1e-3)


def test_the_share_of_prefill_is_that_of_the_prompts_alone(start: tuple[Averages, View]) -> None:
    learnt, view = start
    learnt.close_interval(view, 1.0)
    before = learnt.prefill_share
    learnt.beside_s = 0.3
    view = steps(view, prefill=(500, 0.5), decode=(5, 0.5))
    learnt.observe(view)
    learnt.close_interval(view, 1.0)
    assert learnt.prefill_share == pytest.approx(0.9 * before + 0.1 * 0.2)


def test_a_decode_step_takes_what_the_last_ones_took(start: tuple[Averages, View]) -> None:
    learnt, view = start
    rows = np.array([2, 3])
    assert learnt.decode_step_s(view, rows) == view.cost.step_s(2, float(view.computed_tokens[rows].sum()), 0.0, 2)
    for took_s in (0.2, 0.1):
        view = steps(view, decode=(5, took_s))
        learnt.observe(view)
    assert learnt.decode_step_s(view, rows) == pytest.approx(0.02)
