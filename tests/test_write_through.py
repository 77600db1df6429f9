"""Write-through in closed form equals writing step by step, token by token, in the order of the plan."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import pytest
from builders import machine
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.link import Link
from sim.write_through import WriteThrough


def setup(free_s: float = 0.0, **changes: Any) -> tuple[WriteThrough, Link]:
    """A write-through on a link that earlier copies hold until `free_s`; a token takes 1 ms to cross."""
    on = machine(**{"block_size": 16, "kv_token_bytes": 1e5, "d2h_bytes_per_s": 1e8, "copy_overhead_s": 0.0} | changes)
    link = Link(on.block_copy_s(on.d2h_bytes_per_s))
    link.free_s = free_s
    return WriteThrough(on, link), link


def step_by_step(hidden: list[float], unwritten: list[float], fresh: list[float]) -> list[float]:
    """What is left after each step has written at most `hidden` tokens before it made its own."""
    left = list(unwritten)
    for room in hidden:
        for i, waiting in enumerate(left):
            written = min(waiting, room)
            left[i], room = waiting - written, room - written
        left = [waiting + made for waiting, made in zip(left, fresh)]
    return left


tokens = st.one_of(st.just(0.0), st.integers(0, 300).map(float), st.floats(0, 300))


@settings(max_examples=400, deadline=None)
@given(unwritten=st.lists(tokens, min_size=1, max_size=6), paused=st.lists(st.booleans(), min_size=6, max_size=6),
       step_s=st.floats(1e-3, 0.05), growth_s=st.floats(0, 2e-3), steps=st.integers(1, 40),
       queued_s=st.one_of(st.just(0.0), st.floats(0, 0.5)), share=st.floats(0.1, 1.0))
def test_closed_form_equals_brute_force(unwritten: list[float], paused: list[bool], step_s: float, growth_s: float, steps: int,
                                        queued_s: float, share: float) -> None:
    """Any backlog, some requests paused, steps that grow, a link that is busy for the first of them."""
    fresh = [0.0 if rests else 1.0 for _, rests in zip(unwritten, paused)]
    ends = 3.0 + np.cumsum(step_s + growth_s * np.arange(steps))
    hidden_s, now = [], 3.0
    for end in ends:
        busy_s = max(min(end, 3.0 + queued_s) - now, 0.0)
        hidden_s.append(max(share * (end - now) - busy_s, 0.0))
        now = end
    expected = step_by_step([1000.0 * s for s in hidden_s], unwritten, fresh)
    write_through, link = setup(free_s=3.0 + queued_s, write_share=share)
    left = write_through.write(3.0, ends, np.array(unwritten), np.array(fresh))
    np.testing.assert_allclose(left, expected, rtol=0, atol=1e-6)
    written = sum(unwritten) + sum(fresh) * steps - sum(expected)
    assert write_through.tokens == pytest.approx(written, abs=1e-6)
    assert link.blocks == pytest.approx(written / 16, abs=1e-6)
    assert link.busy_s == pytest.approx(written / 1000, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(chunk=st.integers(1, 2000), unwritten=st.lists(tokens, min_size=1, max_size=5), step_s=st.floats(0.01, 0.5))
def test_a_prefill_step_makes_many_tokens_at_once(chunk: int, unwritten: list[float], step_s: float) -> None:
    """What a step makes cannot cross before it is over."""
    fresh = [float(chunk)] + [1.0] * (len(unwritten) - 1)
    expected = step_by_step([900.0 * step_s], unwritten, fresh)
    write_through, _ = setup()
    left = write_through.write(0.0, np.array([step_s]), np.array(unwritten), np.array(fresh))
    np.testing.assert_allclose(left, expected, rtol=0, atol=1e-6)


def test_the_first_in_the_plan_is_written_first() -> None:
    write_through, _ = setup()
    left = write_through.write(0.0, np.array([0.1]), np.array([60.0, 60.0, 60.0]), np.ones(3))
    np.testing.assert_allclose(left, [1.0, 31.0, 61.0])       # 0.9 x 0.1 s = 90 tokens hidden


def test_a_complete_copy_is_exactly_complete() -> None:
    """No rounding is left over, however long it took: a request written to the end can leave at once."""
    write_through, _ = setup()
    left = write_through.write(0.0, np.cumsum(np.full(37, 0.013)), np.array([123.456, 0.0, 77.7]), np.array([0.0, 1.0, 0.0]))
    assert left[0] == 0.0
    assert (left <= np.array([123.456, 37.0, 77.7])).all()


@pytest.mark.parametrize("step", [0.5, 1.0, 1.1, 2.0])
@pytest.mark.parametrize("link", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("queued_s", [0.0, 0.04, 0.099, 0.15, 0.5])
def test_chunks_outlast_their_step_only_when_beliefs_are_off(step: float, link: float, queued_s: float) -> None:
    """`exact` says so beforehand; a step waits for its chunk, not for copies that were queued before it."""
    write_through, _ = setup(free_s=queued_s, believed_step=step, believed_link=link)
    over_s = write_through.outlasting(0.0, 0.1, unwritten=1e6)
    assert over_s >= 0.1
    if write_through.exact:
        assert over_s == 0.1
        assert not write_through.late_chunks
    if queued_s >= 0.1 * 0.9 * step:
        assert over_s == 0.1, "the engine knows what it has queued"
    if queued_s == 0:
        assert over_s == pytest.approx(0.1 * max(1.0, 0.9 * step * link))
    assert write_through.late_s == pytest.approx(over_s - 0.1)
    assert write_through.late_chunks == (over_s > 0.1 + 1e-9)


def test_a_link_that_takes_no_time_writes_everything() -> None:
    write_through, link = setup(d2h_bytes_per_s=inf)
    left = write_through.write(0.0, np.array([0.1, 0.2]), np.array([1e6, 0.0]), np.ones(2))
    np.testing.assert_array_equal(left, [1.0, 1.0])
    assert link.busy_s == 0.0
