"""A link copies first come, first served, and at capacity moves exactly what its bandwidth allows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from builders import EVEN, Ask, machine, run_engine
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import Plan, Residency, View
from sim.link import Link, take_across


@settings(max_examples=200, deadline=None)
@given(copies=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 50)), min_size=1, max_size=20), block_s=st.floats(0, 0.1))
def test_copies_land_in_turn(copies: list[tuple[float, int]], block_s: float) -> None:
    """Each begins when it is ordered and the one before is across, and takes its blocks' time."""
    link, other, landed = Link(block_s), Link(block_s), []
    now, free, expected = 0.0, 0.0, []
    for gap_s, blocks in copies:
        now += gap_s
        take_across(link, other, now)
        assert landed == pytest.approx([at_s for at_s in expected if at_s <= now])
        link.copy(now, blocks, landed.append)
        free = max(now, free) + blocks * block_s
        expected.append(free)
    take_across(link, other, 1e9)
    assert landed == pytest.approx(expected)
    assert link.blocks == sum(blocks for _, blocks in copies)
    assert link.busy_s == pytest.approx(link.blocks * block_s)
    assert link.busy_s <= max(link.free_s, now) + 1e-9


def test_busy_time_of_steps() -> None:
    link = Link(1.0)
    link.free_s = 2.5
    np.testing.assert_allclose(link.busy_in(1.0, np.array([2.0, 3.0, 4.0])), [1.0, 0.5, 0.0])
    np.testing.assert_allclose(link.busy_in(3.0, np.array([4.0])), [0.0])


def test_a_negative_block_time_is_refused() -> None:
    with pytest.raises(ValueError, match=r"-1\.0"):
        Link(-1.0)


@dataclass
class Shuttle:
    """Sends everyone to the host and back until `until_s`, and has every trip written anew; then lets them finish."""

    until_s: float

    def plan(self, view: View) -> Plan:
        at, ids = view.residency, view.id
        new, here, away = (ids[at == place] for place in (Residency.NONE, Residency.GPU, Residency.HOST))
        if len(new):
            return Plan(prefill=tuple((int(id), int(left)) for id, left in zip(ids, view.remaining_tokens)))
        if view.now_s >= self.until_s:
            return Plan(decode=here, load=away)
        copied = ids[(at == Residency.GPU) & (view.host_tokens > 0)]
        if len(copied):
            return Plan(forget=copied, load=away, wake_at_s=float(np.nextafter(view.now_s, np.inf)))
        return Plan(offload=here, load=away)


def test_a_link_at_capacity() -> None:
    """Copies queued back to back: throughput is the bandwidth and utilisation 1, in both directions at once."""
    rate, until_s = 1e9, 20.0
    on = machine(latency=EVEN, kv_blocks=400, host_kv_blocks=400, h2d_bytes_per_s=rate, d2h_bytes_per_s=rate, copy_overhead_s=0.0)
    asks = [Ask(0.0, 160, 2) for _ in range(10)]        # ten blocks, 21 ms each way
    ran = run_engine(asks, Shuttle(until_s), on)
    took_s = ran.records.last_s[0] - ran.records.first_s[0]
    assert took_s == pytest.approx(until_s, rel=0.03)
    for link, copies in ((ran.engine.h2d, ran.engine.count.loads), (ran.engine.d2h, ran.engine.count.offloads)):
        assert link.blocks == 10 * copies > 9000
        assert link.blocks * 16 * on.kv_token_bytes / took_s == pytest.approx(rate, rel=0.02)
        assert link.busy_s / took_s == pytest.approx(1.0, rel=0.02)
