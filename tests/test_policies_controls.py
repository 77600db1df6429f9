"""The controls: each does what its sentence says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from builders import EVEN, FAST, SLOW, Ask, Log, Ran, machine, random_asks, run_engine
from test_policies_sglang import Req, Server

from policies import POLICIES, FcfsOffload, LeastSlack, RateCap, SGLang
from policies.api import Plan, Policy, Residency, View
from policies.scene import Scene
from sim.beliefs import Beliefs
from sim.engine import Engine
from sim.machine import Machine
from sim.records import Fate


@dataclass
class Checked(Log):
    """A Log that applies a check to every decision."""

    check: Callable[[View, Plan], None] = field(default=lambda view, plan: None)

    def decided(self, engine: Engine, view: View, plan: Plan) -> None:
        super().decided(engine, view, plan)
        self.check(view, plan)


def burst(n: int = 60, prompt: int = 200, output: int = 300, rate: float = 20.0, seed: int = 0) -> list[Ask]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(prompt // 2, 3 * prompt // 2, n), rng.integers(output // 2, 3 * output // 2, n)
    return [Ask(0.0, int(p), int(o), rate) for p, o in zip(*lengths)]


def checked(asks: list[Ask], policy: Policy, on: Machine, check: Callable[[View, Plan], None]) -> Ran:
    ran = run_engine(asks, policy, on, watch=Checked(check=check))
    assert (ran.records.fate == Fate.COMPLETED).all()
    return ran


def scarce(**changes: Any) -> Machine:
    """Room for about a tenth of the burst."""
    return machine(**{"kv_blocks": 180, "host_kv_blocks": 4000, "max_step_tokens": 1 << 20} | changes)


# ---- sglang-chunked


def test_no_prefill_step_is_longer_than_the_chunk() -> None:
    seen: list[int] = []

    def bounded(view: View, plan: Plan) -> None:
        assert not (plan.prefill and len(plan.decode)), "unmixed: decodes wait"
        seen.append(sum(tokens for _, tokens in plan.prefill))
    asks = [*burst(), Ask(0.5, 900, 10), Ask(0.6, 1500, 10)]
    checked(asks, SGLang.chunked(chunked_prefill_size=256), scarce(), bounded)
    assert max(seen) == 256
    seen.clear()
    checked(asks, SGLang.chunked(), scarce(max_step_tokens=512), bounded)
    assert max(seen) == 512
    seen.clear()
    checked(asks, SGLang.chunked(), machine(max_step_tokens=1 << 20, max_seqs=256), bounded)
    assert max(seen) == 8192


def test_chunks_of_a_queue_run_back_to_back() -> None:
    """Chunking bounds the batch, not the stall: readers who decode wait for the whole queue."""
    asks = [Ask(0.0, 64, 400), *(Ask(0.2, 1000, 20) for _ in range(4))]
    ran = run_engine(asks, SGLang.chunked(chunked_prefill_size=250), machine(max_step_tokens=1 << 20))
    chunks = [i for i, step in enumerate(ran.log.batches) if max(step.values()) > 1][1:]
    assert len(chunks) == 16
    assert chunks == list(range(chunks[0], chunks[0] + 16))


def test_mixed_decodes_ride_in_prefill_steps() -> None:
    asks = [*(Ask(0.0, 64, 400) for _ in range(10)), *(Ask(0.2, 1000, 20) for _ in range(4))]
    ran = run_engine(asks, SGLang.chunked(chunked_prefill_size=250, mixed_chunk=True), machine(max_step_tokens=1 << 20))
    mixed = [step for step in ran.log.batches if max(step.values()) > 1 and len(step) > 4]
    assert len(mixed) > 16, "the chunks share their steps with decodes"
    assert max(sum(step.values()) for step in ran.log.batches[3:]) == 250, "decodes take their tokens from the chunk"
    assert all(set(range(10)) <= set(step) for step in mixed[3:]), "nobody who decodes waits"


def test_mixed_needs_a_chunk_size() -> None:
    asks = burst(30)
    plain, mixed = (run_engine(asks, SGLang(mixed_chunk=mix), scarce()) for mix in (False, True))
    assert plain.log.batches == mixed.log.batches
    for off in (0, -1):
        assert run_engine(asks, SGLang(chunked_prefill_size=off), scarce()).log.batches == plain.log.batches


class MixedServer(Server):
    """SGLang's loop with --enable-mixed-chunk: the running ones take their tokens from the budgets, and ride."""

    def try_prefill(self) -> list[tuple[Req, int]]:
        beside = len(self.running)
        assert self.chunk is not None
        self.free, self.chunk = self.free - beside, self.chunk - beside
        batch = super().try_prefill()
        self.free, self.chunk = self.free + beside, self.chunk + beside
        if not batch:
            return []
        batch += [(r, 1) for r in self.running if not r.done]
        self.running = []
        return batch


@pytest.mark.parametrize("room", [2, 3, 1000])
def test_same_batches_as_sglang_mixed(room: int) -> None:
    retracted = 0
    for seed in range(6):
        rng = np.random.default_rng([seed, room])
        asks = [replace(ask, arrival_s=0.0) for ask in random_asks(rng, 40, prompt=400, output=300)]
        pool = room * max(ask.prompt + ask.output for ask in asks)
        on = machine(latency=FAST, kv_blocks=pool, block_size=1, max_seqs=4096, max_step_tokens=1 << 20)
        ran = run_engine(asks, SGLang(chunked_prefill_size=128, mixed_chunk=True), on)
        server = MixedServer(pool, 4096, 128, queue=[Req(id, ask.prompt, ask.output) for id, ask in enumerate(asks)])
        everyone = list(server.queue)
        for step, ours in enumerate(ran.log.batches):
            theirs = server.next_batch() or server.next_batch()
            assert ours == theirs, f"seed {seed}, step {step}"
            for r in everyone:
                if r.id in theirs and r.kv == r.prompt + r.output:
                    r.output += 1
                    server.free += r.kv * r.done
        assert all(r.done for r in everyone)
        retracted += len(server.retracted)
    assert (retracted > 0) == (room < 1000)


# ---- sglang-ratecap


def buffers(ran: Ran, asks: list[Ask]) -> list[np.ndarray[Any, Any]]:
    """Of each request, the tokens that lie unread just before each token comes."""
    unread = []
    for id, ask in enumerate(asks):
        at = ran.records.token_times_s(id)
        taken = np.maximum.accumulate(at - np.arange(len(at)) / ask.rate) + np.arange(len(at)) / ask.rate
        unread.append(np.arange(len(at)) - taken.searchsorted(at - 1e-9, side="right"))
    return unread


def test_far_under_capacity_no_buffer_grows_beyond_the_cap() -> None:
    asks = burst(20, output=600)

    def capped(view: View, plan: Plan) -> None:
        assert (view.slack_s <= 1.0 + 1 / 20.0 + 1e-6).all()
        assert not np.isin(view.rows(plan.decode), (view.slack_s >= 1.0).nonzero()[0]).any()
    ran = checked(asks, RateCap(), machine(), capped)
    unread = buffers(ran, asks)
    assert max(each.max() for each in unread) <= 21
    late = [np.diff(ran.records.token_times_s(id)).max() for id in range(len(asks))]
    assert max(late) < 0.5 + 1 / 20 + 0.02, "it goes on at half a second of buffer"
    total = sum(ask.output for ask in asks)
    full = sum(int(np.count_nonzero(each <= 0.1 * ask.output)) for each, ask in zip(unread, asks))
    assert full == total, "every token counts in full"
    free = run_engine(asks, SGLang(), machine())
    assert free.records.last_s.max() < 0.5 * ran.records.last_s.max(), "the price: it takes as long as reading does"
    assert max(each.max() for each in buffers(free, asks)) > 100


def test_pauses_and_resumptions_come_at_the_right_step() -> None:
    """One reader of 16 tokens/s, steps of 1/64 s: +3/64 s of buffer a step, paused at 1 s, resumed below 0.5 s."""
    ran = run_engine([Ask(0.0, 16, 300, 16.0)], RateCap(), machine(latency=EVEN))
    at = ran.records.token_times_s(0)
    pauses = (np.diff(at) > 0.1).nonzero()[0]
    slack = np.maximum.accumulate(at - np.arange(300) / 16) + np.arange(300) / 16 - at
    assert len(pauses) > 10
    np.testing.assert_array_equal(pauses, (slack[:-1] >= 1.0).nonzero()[0])
    resumed = at[pauses + 1] - 1 / 64                           # the start of the step
    left = slack[pauses] - (resumed - at[pauses])
    assert ((left < 0.5) & (left > 0.5 - 1e-5)).all()
    assert ran.engine.count.decisions < 12 * len(pauses), "it is not asked every step"


def test_capped_requests_keep_their_memory() -> None:
    def kept(view: View, plan: Plan) -> None:
        assert not len(plan.offload)
        assert not len(plan.drop)
    ran = checked(burst(20), RateCap(), machine(), kept)
    assert not ran.records.preemptions.any()


def test_beyond_capacity_the_cap_never_acts() -> None:
    asks = burst(40, rate=200.0)
    one, other = (run_engine(asks, policy, scarce(latency=SLOW)) for policy in (SGLang(), RateCap()))
    assert one.log.batches == other.log.batches


@pytest.mark.parametrize(("high_s", "low_s"), [(1.0, 0.0), (0.5, 1.0), (0.0, 0.0), (1.0, float("nan"))])
def test_caps_that_make_no_sense(high_s: float, low_s: float) -> None:
    with pytest.raises(ValueError, match="low_s must be above 0 and at most high_s"):
        RateCap(high_s=high_s, low_s=low_s)


# ---- fcfs-offload


def overtakers(view: View, plan: Plan) -> None:
    """Newcomers wait while anyone is on the host."""
    away = (view.residency == Residency.HOST) | (view.residency == Residency.EVICTING)
    away[view.rows(plan.load)] = False
    new = [id for id, _ in plan.prefill if view.preemptions[view.rows(np.array([id]))[0]] == 0
           and view.residency[view.rows(np.array([id]))[0]] == Residency.NONE]
    assert not (new and away.any())


def test_nothing_is_computed_twice_and_first_tokens_come_in_order_of_arrival() -> None:
    ran = checked(burst(150), FcfsOffload(schedule_conservativeness=0.3), scarce(kv_blocks=100), overtakers)
    count = ran.engine.count
    assert count.offloads == count.loads >= 5
    assert count.recomputed_tokens == count.drops == 0
    assert (np.diff(ran.records.first_s) >= 0).all()
    assert count.unwritten_tokens <= 2 * count.offloads, "written through"
    assert run_engine(burst(), SGLang(), scarce()).engine.count.recomputed_tokens > 0


def test_victims_come_back_in_order_when_some_steps_fit() -> None:
    def room(view: View, plan: Plan) -> None:
        rows = view.rows(plan.load)
        assert (np.diff(rows) > 0).all()
        away = (view.residency == Residency.HOST).nonzero()[0]
        assert rows.tolist() == away[: len(rows)].tolist()
        running = int(np.count_nonzero((view.residency == Residency.GPU) | (view.residency == Residency.LOADING)))
        if running and len(rows) == 1:
            assert view.free_blocks * view.block_size >= view.computed_tokens[rows[0]] + 20 * (running + 1)
    checked(burst(150), FcfsOffload(schedule_conservativeness=0.3), scarce(kv_blocks=100), room)


def test_with_the_host_full_victims_are_dropped() -> None:
    for host, loads in ((0, False), (8, False), (40, True)):
        ran = checked(burst(), FcfsOffload(), scarce(host_kv_blocks=host), overtakers)
        assert ran.engine.count.drops > 0
        assert (ran.engine.count.loads > 0) == loads
        assert (np.diff(ran.records.first_s) >= 0).all(), "dropped or not, they keep their place"


def test_with_room_for_all_it_is_sglang() -> None:
    asks = random_asks(np.random.default_rng(0), 60)
    for chunk, mix in ((None, False), (256, False), (256, True)):
        one, other = (run_engine(asks, make(chunked_prefill_size=chunk, mixed_chunk=mix), machine())
                      for make in (SGLang, FcfsOffload))
        assert one.log.batches == other.log.batches


# ---- least-slack


def test_who_leaves_has_more_to_read_than_who_comes() -> None:
    moved = 0

    def ranked(view: View, plan: Plan) -> None:
        nonlocal moved
        scene, leave = Scene(view), view.rows(plan.offload)
        if len(leave) and scene.short <= 0:
            moved += len(leave)
            assert (view.now_s - view.moved_s[leave] >= 1.0).all(), "residents younger than an interval stay"
            absent = np.concatenate((scene.away, scene.waiting, scene.dropped))
            assert view.slack_s[leave].min() >= view.slack_s[absent].min()
    asks, on = burst(prompt=800, output=400), scarce(kv_blocks=400)
    ran = checked(asks, LeastSlack(), on, ranked)
    assert moved > 20
    assert ran.engine.count.loads > 20
    assert ran.engine.count.unwritten_tokens <= 2 * ran.engine.count.offloads, "written through"
    sglang = run_engine(asks, SGLang(), on)
    assert ran.records.first_s.mean() < 0.7 * sglang.records.first_s.mean(), "newcomers need not wait for the full"


def least_slack_view(slack: list[float], at: list[int], moved_s: float = 0.0) -> View:
    """Requests of 10 blocks each on a GPU of 40 (38 to fill), at 50 s."""
    n, on = len(slack), machine(kv_blocks=40, host_kv_blocks=400)
    new = np.array([where == Residency.NONE for where in at])
    prompt, output = np.full(n, 140), np.where(new, 0, 6)
    computed = np.where(new, 0, prompt + output - 1)
    until = np.where(new, -np.inf, 50.0 + np.array(slack))
    free = 40 - 10 * at.count(Residency.GPU)
    host_free, preemptions = 400 - 10 * int(np.count_nonzero(~new)), (np.array(at) == Residency.HOST).astype(int)
    return View(50.0, np.arange(n), np.arange(n) * 1.0, prompt, output, np.full(n, 15), computed, computed.astype(float),
                np.array(at), np.full(n, 20.0), lambda: until, preemptions, np.full(n, moved_s), np.ones(n), np.full(n, np.nan),
                np.full(n, np.nan), np.ones(n, int), free, 40, host_free, 400, 16, 8, 4096, 0.0, 0.0, 100, 4, 400, 640, 3.0, 0.5,
                Beliefs(on))


def test_the_ranking() -> None:
    gpu, host, none = Residency.GPU, Residency.HOST, Residency.NONE
    full = LeastSlack().plan(least_slack_view([9.0, 3.0, 2.0, 0.0, 1.0], [gpu, gpu, gpu, none, host]))
    assert full.offload.tolist() == [0], "not chosen are 0 and 1; the room of one is enough"
    assert [id for id, _ in full.prefill] == [3]
    young = LeastSlack().plan(least_slack_view([9.0, 3.0, 2.0, 0.0, 1.0], [gpu, gpu, gpu, none, host], moved_s=49.5))
    assert not len(young.offload)
    content = LeastSlack().plan(least_slack_view([0.5, 0.4, 0.3, 1.0], [gpu, gpu, gpu, host]))
    assert not len(content.offload)


def test_admission_keeps_the_memory_bound() -> None:
    held: list[int] = []

    def bounded(view: View, plan: Plan) -> None:
        demand = (view.prompt_tokens + view.max_tokens)[Scene(view).admitted]
        held.append(int(demand.sum()))
    on = scarce(host_kv_blocks=180)
    ran = checked(burst(), LeastSlack(), on, bounded)
    assert 0.8 < max(held) / (0.95 * (0.95 * 180 + 180) * 16) <= 1.0
    assert ran.engine.count.loads > 0


def test_load_or_recompute() -> None:
    slow = run_engine(burst(), LeastSlack(), scarce(kv_blocks=500, h2d_bytes_per_s=0.05e9)).engine.count
    assert slow.loads == 0
    assert slow.copies_given_up > 0
    assert slow.recomputed_tokens > 0


def test_without_a_host_pool_only_a_shortage_drops() -> None:
    def short(view: View, plan: Plan) -> None:
        assert not len(plan.offload)
        assert not len(plan.drop) or Scene(view).short > 0
    ran = checked(burst(), LeastSlack(overcommit=2.0), scarce(host_kv_blocks=0), short)
    assert ran.engine.count.drops > 0


def test_each_control_is_registered_under_its_name() -> None:
    found = {name: type(make()) for name, make in POLICIES.items()}
    assert found["sglang-chunked"] is SGLang
    assert (found["sglang-ratecap"], found["fcfs-offload"], found["least-slack"]) == (RateCap, FcfsOffload, LeastSlack)
    assert POLICIES["sglang-chunked"]() == SGLang(chunked_prefill_size=8192) != SGLang()
