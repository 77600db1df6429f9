"""Both directions of a link at once: each copies at a share of its own rate while the other has copies queued."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import pytest
from builders import machine, random_asks, run_engine
from hypothesis import given, settings
from hypothesis import strategies as st
from random_policy import RandomPolicy

from sim.engine import Engine
from sim.hardware import build_machine
from sim.link import Link, host_links, take_across
from sim.machine import Machine
from sim.write_through import WriteThrough

GB = 1e9
LATE_S = 1e9


@dataclass(frozen=True)
class Copy:
    """`s`: seconds it takes alone."""

    at_s: float
    way: int        #: 0: h2d, 1: d2h
    s: float


def links(shares: tuple[float, float], rates: tuple[float, float] = (1e6, 1e6)) -> tuple[Link, Link]:
    """Copying one block alone takes a microsecond, unless the rates, in blocks per second, say otherwise."""
    on = machine(block_size=1, kv_token_bytes=1.0, copy_overhead_s=0.0, h2d_bytes_per_s=rates[0], d2h_bytes_per_s=rates[1],
                 duplex_h2d=shares[0], duplex_d2h=shares[1])
    return host_links(on)


def landings(copies: list[Copy], shares: tuple[float, float]) -> tuple[list[float], tuple[Link, Link]]:
    """When each copy is across, in order of `copies`."""
    both = links(shares)
    across = [0.0] * len(copies)
    for i, copy in enumerate(copies):
        take_across(*both, copy.at_s)
        both[copy.way].copy(copy.at_s, round(copy.s * 1e6), lambda at_s, i=i: across.__setitem__(i, at_s))
    take_across(*both, LATE_S)
    assert both[0].next_s == both[1].next_s == inf
    return across, both


def fluid(copies: list[Copy], shares: tuple[float, float], tick_s: float) -> tuple[list[float], list[float]]:
    """The same in small steps of time, and how long each direction was copying."""
    left, across, busy_s, now = [copy.s for copy in copies], [0.0] * len(copies), [0.0, 0.0], 0.0
    while any(s > 0 for s in left):
        queues = [[i for i, copy in enumerate(copies) if copy.way == way and copy.at_s <= now and left[i] > 0] for way in (0, 1)]
        for way, queue in enumerate(queues):
            can = tick_s * (shares[way] if all(queues) else 1.0)
            busy_s[way] += tick_s * bool(queue)
            for i in queue:
                moved = min(can, left[i])
                left[i], can = left[i] - moved, can - moved
                if left[i] <= 0:
                    across[i] = now + tick_s
        now += tick_s
    return across, busy_s


share = st.sampled_from([0.25, 0.48, 0.64, 0.81, 0.96, 1.0])
ticks = st.integers(0, 300).map(lambda n: n / 1000)
copies = st.lists(st.builds(Copy, st.one_of(st.just(0.0), ticks), st.integers(0, 1), ticks), min_size=1, max_size=12).map(
    lambda some: sorted(some, key=lambda copy: copy.at_s))


@settings(max_examples=150, deadline=None)
@given(copies=copies, shares=st.tuples(share, share))
def test_closed_form_equals_small_steps(copies: list[Copy], shares: tuple[float, float]) -> None:
    across, both = landings(copies, shares)
    tick_s = 1e-3
    expected, busy_s = fluid(copies, shares, tick_s)
    tolerance_s = (len(copies) + 2) * tick_s / min(shares)
    for i, copy in enumerate(copies):
        if copy.s:
            assert across[i] == pytest.approx(expected[i], abs=tolerance_s)
    for way, link in enumerate(both):
        assert link.busy_s == pytest.approx(busy_s[way], abs=tolerance_s)


@settings(max_examples=300, deadline=None)
@given(copies=copies, shares=st.tuples(share, share))
def test_work_is_conserved(copies: list[Copy], shares: tuple[float, float]) -> None:
    """Neither faster than its rate nor slower than its share; in order; no more contention than the other was there for."""
    across, both = landings(copies, shares)
    alone_s = [sum(copy.s for copy in copies if copy.way == way) for way in (0, 1)]
    slow_s = [(link.busy_s - alone_s[way]) / (1 - shares[way]) for way, link in enumerate(both) if shares[way] < 1]
    if len(slow_s) == 2:
        assert slow_s[0] == pytest.approx(slow_s[1], abs=1e-9), "both are slowed for the same seconds"
    for way, link in enumerate(both):
        mine = [i for i, copy in enumerate(copies) if copy.way == way]
        assert link.blocks == sum(round(copies[i].s * 1e6) for i in mine)
        assert alone_s[way] - 1e-9 <= link.busy_s <= alone_s[way] / shares[way] + 1e-9
        assert all(across[b] >= across[a] - 1e-9 for a, b in itertools.pairwise(mine)), "first come, first served"
        if mine:
            assert across[mine[-1]] == pytest.approx(link.free_s, abs=1e-9)
        for i in mine:
            assert across[i] >= copies[i].at_s + copies[i].s - 1e-9


@settings(max_examples=200, deadline=None)
@given(copies=copies, shares=st.tuples(share, share), late=st.builds(Copy, st.just(0.4), st.integers(0, 1), ticks))
def test_a_further_copy_makes_nothing_earlier(copies: list[Copy], shares: tuple[float, float], late: Copy) -> None:
    before, _ = landings(copies, shares)
    after, _ = landings([*copies, late], shares)
    assert all(b >= a - 1e-9 for a, b in zip(before, after))


@settings(max_examples=200, deadline=None)
@given(copies=copies, shares=st.tuples(share, share))
def test_what_has_moved_by_the_time_a_copy_is_across(copies: list[Copy], shares: tuple[float, float]) -> None:
    """All of its direction up to it; queued at once, so that nothing changes afterwards."""
    copies = [replace(copy, at_s=0.0) for copy in copies]
    across, both = landings(copies, shares)
    for i, copy in enumerate(copies):
        blocks = sum(round(before.s * 1e6) for before in copies[: i + 1] if before.way == copy.way)
        moved, busy_s = both[copy.way].moved(across[i])
        assert moved == pytest.approx(blocks, abs=1e-2)
        assert busy_s == pytest.approx(across[i], abs=1e-8)
        assert both[copy.way].moved(LATE_S) == (both[copy.way].blocks, both[copy.way].busy_s)


@pytest.mark.parametrize("first", [0, 1])
def test_a_saturated_pair_moves_what_the_shares_leave(first: int) -> None:
    """RTX 4090: 25 GB/s each way alone; 16 to the GPU and 24 back at once."""
    on = machine(kv_token_bytes=1e6 / 16, copy_overhead_s=0.0, h2d_bytes_per_s=25 * GB, d2h_bytes_per_s=25 * GB,
                 duplex_h2d=0.64, duplex_d2h=0.96)
    both, moved = host_links(on), [0.0, 0.0]

    def again(way: int) -> Callable[[float], None]:
        def landed(at_s: float) -> None:
            moved[way] += 10e6
            both[way].copy(at_s, 10, landed)
        return landed
    for way in (first, 1 - first):
        for _ in range(3):
            both[way].copy(0.0, 10, again(way))
    take_across(*both, 10.0)
    assert [bytes / 10 / GB for bytes in moved] == pytest.approx([16, 24], rel=1e-3)


@pytest.mark.parametrize(("hardware", "copied_bytes", "h2d", "d2h"), [
    ("rtx4090", inf, 16.0, 24.0), ("a100", inf, 12.0, 24.0), ("h200", 2**21, 83.4 - 41.2, 41.2)])
def test_built_in_profiles_give_the_rates_they_name(hardware: str, copied_bytes: float, h2d: float, d2h: float) -> None:
    """GB/s each way at once, of large copies or of blocks as large as were measured, overheads included."""
    on = build_machine(hardware, "llama3-8b")
    for rate, share, gb_per_s in ((on.h2d_bytes_per_s, on.duplex_h2d, h2d), (on.d2h_bytes_per_s, on.duplex_d2h, d2h)):
        assert 1 / (on.copy_overhead_s / copied_bytes + 1 / (rate * share)) / GB == pytest.approx(gb_per_s, rel=0.005)


def test_one_way_alone_runs_at_its_own_rate_and_by_phases_beside_the_other() -> None:
    """3 s to the GPU alone; half a second in, 0.8 s back begin: at half its rate for a second of what is left, and so on."""
    across, (h2d, d2h) = landings([Copy(0.0, 0, 3.0), Copy(0.5, 1, 0.8)], (0.5, 0.8))
    assert across == pytest.approx([3.5, 1.5])
    assert (h2d.busy_s, d2h.busy_s) == pytest.approx((3.5, 1.0))
    assert (h2d.free_s, d2h.free_s) == pytest.approx((3.5, 1.5))


def test_what_is_queued_counts_as_if_nothing_more_came() -> None:
    (h2d, d2h), landed = links((0.5, 0.5)), []
    h2d.copy(0.0, 1_000_000, landed.append)
    assert (h2d.free_s, d2h.free_s) == (1.0, 0.0)
    d2h.copy(0.0, 2_000_000, landed.append)
    assert (h2d.free_s, d2h.free_s) == pytest.approx((2.0, 3.0))
    h2d.copy(0.0, 500_000, landed.append)
    assert (h2d.free_s, d2h.free_s) == pytest.approx((3.0, 3.5))
    assert h2d.next_s == pytest.approx(2.0)
    take_across(h2d, d2h, LATE_S)
    assert landed == pytest.approx([2.0, 3.0, 3.5])


def test_overheads_of_copies_are_nobodys_bandwidth() -> None:
    """Only the bytes of a copy cross slower."""
    on = machine(block_size=1, kv_token_bytes=1e6, copy_overhead_s=1e-3, h2d_bytes_per_s=1 * GB, d2h_bytes_per_s=1 * GB,
                 duplex_h2d=0.5)
    (h2d, d2h), landed = host_links(on), []
    h2d.copy(0.0, 10, landed.append)
    d2h.copy(0.0, 1000, landed.append)
    assert h2d.free_s == pytest.approx(10 * (1e-3 + 2e-3))
    assert d2h.share == 1.0


@pytest.mark.parametrize("shares", [(0.0, 1.0), (1.0, 1.5), (1.0, -0.5), (float("nan"), 1.0)])
def test_impossible_shares_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"duplex_.* must lie in \(0, 1\]"):
        machine(duplex_h2d=shares[0], duplex_d2h=shares[1])


class Alone(Link):
    """Knows of no other direction."""

    def __init__(self, block_s: float) -> None:
        super().__init__(block_s)
        self.due: list[tuple[float, Callable[[float], None]]] = []

    def copy(self, now_s: float, blocks: int, then: Callable[[float], None]) -> None:
        busy_s = blocks * self.block_s
        self.free_s = max(now_s, self.free_s) + busy_s
        self.busy_s += busy_s
        self.blocks += blocks
        self.due.append((self.free_s, then))
        self.next_s = self.due[0][0]

    def take_next(self) -> None:
        at_s, then = self.due.pop(0)
        self.next_s = self.due[0][0] if self.due else inf
        then(at_s)


@pytest.mark.unaudited
def test_full_duplex_is_two_links_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole engine, under a policy that copies both ways all the time."""
    def alone(on: Machine) -> tuple[Alone, Alone]:
        return Alone(on.block_copy_s(on.h2d_bytes_per_s)), Alone(on.block_copy_s(on.d2h_bytes_per_s))
    on = machine(kv_blocks=90, host_kv_blocks=200, h2d_bytes_per_s=0.3 * GB, d2h_bytes_per_s=0.2 * GB)
    for seed in range(3):
        asks = random_asks(np.random.default_rng([seed, 7]), 20)
        here = run_engine(asks, RandomPolicy(seed), on)
        assert here.engine.count.overlaps
        with monkeypatch.context() as patched:
            patched.setattr("sim.engine.host_links", alone)
            there = run_engine(asks, RandomPolicy(seed), on)
        assert here.engine.count.loads > 5
        assert here.log.asked_s == there.log.asked_s
        assert here.log.ends_s == there.log.ends_s
        for name in ("h2d", "d2h"):
            a, b = getattr(here.engine, name), getattr(there.engine, name)
            assert (a.free_s, a.busy_s, a.blocks) == (b.free_s, b.busy_s, b.blocks)


def crowded(engine: Engine) -> bool:
    """Whether copies of one direction slowed the other's."""
    return any(link.busy_s > link.blocks * link.block_s * (1 + 1e-6) for link in (engine.h2d, engine.d2h))


def test_contention_puts_off_what_the_engine_waits_for() -> None:
    """The same plans, as far as they are the same: with shares below 1 requests land later."""
    rng = np.random.default_rng(3)
    asks = random_asks(rng, 20, rate=30.0)
    ran = {duplex: run_engine(asks, RandomPolicy(1), machine(
        kv_blocks=120, host_kv_blocks=200, h2d_bytes_per_s=0.2 * GB, d2h_bytes_per_s=0.2 * GB, duplex_h2d=duplex,
        duplex_d2h=duplex)).engine for duplex in (1.0, 0.5)}
    assert crowded(ran[0.5])
    assert not crowded(ran[1.0])


# ---- write-through beside loads

def beside_loads(load_s: float, share: float, queued_s: float = 0.0, **changes: float) -> tuple[WriteThrough, Machine]:
    """Write-through at 1 ms a token, while loads hold the other direction, and writes this one."""
    on = machine(**{"kv_token_bytes": 1e5, "d2h_bytes_per_s": 1e8, "h2d_bytes_per_s": 1e8, "copy_overhead_s": 0.0,
                    "duplex_d2h": share} | changes)
    h2d, d2h = host_links(on)
    h2d.free_s, d2h.free_s = load_s, queued_s
    return WriteThrough(on, d2h), on


@settings(max_examples=200, deadline=None)
@given(unwritten=st.lists(st.integers(0, 300).map(float), min_size=1, max_size=5), step_s=st.floats(1e-3, 0.05),
       growth_s=st.floats(0, 2e-3), steps=st.integers(1, 40), load_s=st.floats(0, 1),
       queued_s=st.one_of(st.just(0.0), st.floats(0, 0.5)), share=share, write_share=st.floats(0.1, 1.0))
def test_write_through_beside_loads_equals_small_steps(
        unwritten: list[float], step_s: float, growth_s: float, steps: int, load_s: float, queued_s: float, share: float,
        write_share: float) -> None:
    """What a step hides: the time after queued writes, up to `write_share` of it, at the rate that the loads leave."""
    ends = np.cumsum(step_s + growth_s * np.arange(steps))
    left, now = list(unwritten), 0.0
    for end in ends.tolist():
        begin, over = max(now, min(queued_s, end)), now + write_share * (end - now)
        slow_s, fast_s = max(min(over, load_s) - begin, 0.0), max(over - max(begin, load_s), 0.0)
        room = 1000 * (share * slow_s + fast_s)
        for i, waiting in enumerate(left):
            written = min(waiting, room)
            left[i], room = waiting - written, room - written
        left, now = [waiting + 1 for waiting in left], end
    writer, _ = beside_loads(load_s, share, queued_s, write_share=write_share)
    np.testing.assert_allclose(writer.write(0.0, ends, np.array(unwritten), np.ones(len(left))), left, rtol=0, atol=1e-6)


@pytest.mark.parametrize("load_s", [0.0, 0.03, 0.2])
@pytest.mark.parametrize("queued_s", [0.0, 0.05])
@pytest.mark.parametrize("believed", [(1.0, 1.0), (1.0, 1 / 0.9), (0.5, 2.0), (2.0, 1.0)])
def test_a_chunk_beside_loads_fits_its_step_unless_beliefs_are_off(load_s: float, queued_s: float,
                                                                   believed: tuple[float, float]) -> None:
    writer, _ = beside_loads(load_s, 0.5, queued_s, believed_step=believed[0], believed_link=believed[1])
    over_s = writer.outlasting(0.0, 0.1, unwritten=1e6)
    assert over_s == 0.1 if writer.exact else over_s > 0.1
