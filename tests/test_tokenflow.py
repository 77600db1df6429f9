"""TokenFlow's parts, each seen to act; every ablation moves its own counter."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import inf
from typing import Any

import numpy as np
import pytest
from builders import Ask, Ran, run_engine

from policies import POLICIES, TokenFlow
from policies.api import Plan, Residency, View, blocks_for
from policies.scene import Scene
from policies.working_set import peak_tokens
from sim.beliefs import Beliefs
from sim.engine import Engine
from sim.hardware import build_machine
from sim.latency import LatencyModel
from sim.machine import Machine
from sim.run import Run
from sim.workloads import workload


def asks(name: str, **changes: Any) -> list[Ask]:
    """The requests of a named workload, whose readers take 20 tokens/s."""
    trace = workload(name).trace(**changes)
    columns = (trace.arrival_s, trace.input_tokens, trace.output_tokens)
    return [Ask(t, p, o) for t, p, o in zip(*(column.tolist() for column in columns))]


def machine(name: str, **changes: Any) -> Machine:
    """The machine of a named workload."""
    return replace(build_machine(**workload(name).machine, max_num_batched_tokens=TokenFlow.engine_step_tokens), **changes)


SETUPS = {name: (asks(name), machine(name)) for name in ("burst-80", "burst-400")}
BOTH = pytest.mark.parametrize("setup", SETUPS)
#: for copies of residents as well, beside everybody who is away
ROOM: dict[str, dict[str, Any]] = {"burst-80": {}, "burst-400": {"host_kv_blocks": 100_000}}


def ran(setup: str, policy: TokenFlow | None = None, **changes: Any) -> Engine:
    """The engine after the burst; the plain run is made once."""
    return plain(setup) if policy is None and not changes else run_engine(
        SETUPS[setup][0], policy or TokenFlow(), replace(SETUPS[setup][1], **changes)).engine


@cache
def plain(setup: str) -> Engine:
    return run_engine(SETUPS[setup][0], TokenFlow(), SETUPS[setup][1]).engine


class Views:
    """A Watch that applies a check to every decision."""

    def __init__(self, check: Any) -> None:
        self.check, self.seen = check, 0

    def decided(self, engine: Engine, view: View, plan: Plan) -> None:
        self.seen += 1
        self.check(engine, view, plan)

    def ran(self, engine: Engine, run: Run) -> None:
        pass


def watched(burst: list[Ask], policy: TokenFlow, machine: Machine, check: Any, monkeypatch: pytest.MonkeyPatch) -> Ran:
    build = Engine.__init__

    def built(self: Engine, *args: Any, watch: Any = None, **kw: Any) -> None:
        log = watch

        class Both(Views):
            def decided(self, engine: Engine, view: View, plan: Plan) -> None:
                super().decided(engine, view, plan)
                log.decided(engine, view, plan)

            def ran(self, engine: Engine, run: Run) -> None:
                log.ran(engine, run)
        build(self, *args, watch=Both(check), **kw)
    monkeypatch.setattr(Engine, "__init__", built)
    return run_engine(burst, policy, machine)


# ---- the paper's toy example


def fig6_view(now_s: float, output: list[int], until_s: list[float], at: list[int], moved_s: list[float]) -> View:
    """Fig. 6: two slots of 40 tokens/s; R1 reads 20/s, R2 30/s from 0 on, R3 25/s from 2 on; a move takes 50 ms."""
    n = len(output)
    machine = Machine(LatencyModel(0.025, 0, 0, 0, 0, 1), kv_blocks=1000, host_kv_blocks=2000, max_seqs=2, copy_overhead_s=0,
                      h2d_bytes_per_s=1.0, d2h_bytes_per_s=1.0, kv_token_bytes=0.05 / 100)
    ints, prompt = np.array(output), np.full(n, 100)
    computed = np.where(np.array(at) == Residency.NONE, 0, prompt + ints - 1)
    none = np.full(n, np.nan)
    return View(now_s, np.arange(n), np.array([0.0, 0.0, 2.0])[:n], prompt, ints, np.full(n, 1000), computed,
                computed.astype(float), np.array(at), np.array([20.0, 30.0, 25.0])[:n], lambda: np.array(until_s),
                np.array(at) // Residency.HOST, np.array(moved_s), np.ones(n), none, none, np.ones(n, int), 900,
                1000, 1000, 2000, 16, 2, 4096, 0.0, 0.0, 40, 1, 80, 200, 1.0, 0.5, Beliefs(machine))


def decisions(view: View, rate_margin: float = 1.0) -> tuple[set[int], set[int], set[int]]:
    plan = TokenFlow(rate_margin=rate_margin).plan(view)        # 1, as in the paper: R1 to R3 take 75 of 80 tokens/s
    return set(plan.offload.tolist()), set(plan.load.tolist()), {id for id, _ in plan.prefill}


def test_fig6_nobody_can_be_preempted_safely_at_2() -> None:
    gpu, none = Residency.GPU, Residency.NONE
    view = fig6_view(2.0, [80, 80, 0], [4.0, 2 + 20 / 30, -inf], [gpu, gpu, none], [0.0, 0.0, 2.0])
    assert decisions(view) == (set(), set(), set())


def test_fig6_r1_yields_to_r3_at_3() -> None:
    gpu, none = Residency.GPU, Residency.NONE
    view = fig6_view(3.0, [120, 120, 0], [6.0, 4.0, -inf], [gpu, gpu, none], [0.0, 0.0, 2.0])
    assert decisions(view) == ({0}, set(), {2})
    assert decisions(view, TokenFlow().rate_margin) == (set(), set(), set()), "by default 5 % are kept free"


def test_fig6_r1_replaces_r2_at_5() -> None:
    gpu, host = Residency.GPU, Residency.HOST
    view = fig6_view(5.0, [120, 200, 80], [6.0, 5 + 50 / 30, 5 + 30 / 25], [host, gpu, gpu], [3.0, 0.0, 3.0])
    assert decisions(view) == ({1}, {0}, set())


# ---- prompts


def newcomer_view(slack_s: float, rate: float = 20.0, prompt: int = 4000) -> View:
    """Three residents with so much to read, a newcomer with a long prompt, memory for all."""
    view = overloaded_view()
    gpu, none = Residency.GPU, Residency.NONE
    return view._replace(residency=np.array([gpu, gpu, gpu, none]), consumption_rate=np.full(4, rate),
                         prompt_tokens=np.array([160, 160, 160, prompt]), output_tokens=np.array([40, 40, 40, 0]),
                         computed_tokens=np.array([199, 199, 199, 0]), host_tokens=np.zeros(4), preemptions=np.zeros(4, int),
                         readers=lambda: np.array([view.now_s + slack_s] * 3 + [-inf]), free_blocks=960, total_blocks=1000,
                         host_free_blocks=2000, host_total_blocks=2000, max_step_tokens=1 << 20)


@pytest.mark.parametrize(("slack_s", "rate", "ride_share"), [
    (0.0, 20.0, 1.0), (0.05, 20.0, 1.0), (0.0, 5.0, 1.0), (0.0, 500.0, 1.0), (0.0, 500.0, 3.0)])
def test_a_prompt_that_no_buffer_covers_rides_until_a_reader_runs_dry(slack_s: float, rate: float, ride_share: float) -> None:
    view, policy = newcomer_view(slack_s, rate), TokenFlow(ride_share=ride_share, rate_bound=False)
    plan = policy.plan(view)
    ((id, tokens),) = plan.prefill
    assert id == 3
    assert plan.decode.tolist() == [0, 1, 2], "they decode beside it"
    decode_s = view.decode_s / view.decode_steps
    room_s = max(0.9 * (slack_s + 1 / rate - decode_s), ride_share * decode_s)
    assert tokens == int(room_s / (view.prefill_s / view.prefill_tokens))
    assert 0 < tokens < 4000
    assert policy._learnt.beside_s == decode_s


def test_a_prompt_that_every_buffer_covers_goes_alone() -> None:
    plan = TokenFlow().plan(newcomer_view(slack_s=60.0))
    assert plan.prefill == ((3, 4000),)
    assert not len(plan.decode)


def test_a_resident_is_worth_more_than_one_who_would_have_to_come() -> None:
    view = overloaded_view()
    with_it, without = TokenFlow(stickiness=0.25), TokenFlow(stickiness=0.0)
    for policy in (with_it, without):
        policy._learnt.observe(view)
    scene = Scene(view)
    speed = 1.0 / view.cost.step_s(2, float(view.computed_tokens[2:].sum()), 0.0, 2)
    more = with_it._utilities(scene) - without._utilities(scene)
    assert more == pytest.approx([0.0, 0.0, 0.25 * speed, 0.25 * speed])


# ---- the KV tier


@BOTH
def test_write_through_leaves_less_to_write_at_preemption(setup: str) -> None:
    on, off = ran(setup, **ROOM[setup]), ran(setup, TokenFlow(write_through=False), **ROOM[setup])
    assert on.write_through.tokens > 0
    assert off.write_through.tokens == 0
    assert on.count.unwritten_tokens / on.count.offloads < 0.5 * off.count.unwritten_tokens / off.count.offloads


def test_with_room_on_the_host_one_token_is_left_to_write() -> None:
    count = ran("burst-400", **ROOM["burst-400"]).count
    assert count.offloads > 1000
    assert count.unwritten_tokens <= 1.5 * count.offloads


@BOTH
def test_overlap(setup: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran(setup).count.overlaps > 0

    def apart(engine: Engine, view: View, plan: Plan) -> None:
        loads = (view.residency == Residency.LOADING).any() or len(plan.load)
        leaves = view.rows(plan.offload)
        writes = (view.residency == Residency.EVICTING).any() or (view.host_tokens[leaves] < view.computed_tokens[leaves]).any()
        assert not (loads and writes)
    burst, machine = SETUPS[setup]
    assert watched(burst, TokenFlow(overlap=False), machine, apart, monkeypatch).engine.count.overlaps == 0


@pytest.mark.unaudited
@BOTH
def test_chunks_never_outlast_their_step_when_the_estimate_is_exact(setup: str) -> None:
    exact = ran(setup).write_through
    assert exact.chunks > 100
    assert exact.late_chunks == 0
    for error in ("believed_step", "believed_link") if setup == "burst-80" else ("believed_link",):
        late = ran(setup, **{error: 2.0}).write_through         # the truth is 0.5 times what was believed
        assert late.late_chunks > 0
        assert late.late_s > 0


def test_writes_go_largest_buffer_first(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = 0

    def ordered(engine: Engine, view: View, plan: Plan) -> None:
        nonlocal longest
        buffers = view.buffered_tokens[view.rows(plan.store)]
        longest = max(longest, len(buffers))
        assert (np.diff(buffers) <= 0).all()
    burst, machine = SETUPS["burst-80"]
    watched(burst, TokenFlow(), machine, ordered, monkeypatch)
    assert longest > 10


@BOTH
def test_a_slow_link_flips_load_to_recompute(setup: str) -> None:
    fast, slow = ran(setup, **ROOM[setup]).count, ran(setup, **ROOM[setup], h2d_bytes_per_s=0.5e9).count
    assert fast.loads > 0
    assert fast.copies_given_up == fast.recomputed_tokens == 0
    assert slow.loads == 0
    assert slow.copies_given_up > 0
    assert slow.recomputed_tokens > 0
    forced = ran(setup, TokenFlow(load_or_recompute=False), **ROOM[setup], h2d_bytes_per_s=0.5e9).count
    assert forced.loads > 0
    assert forced.recomputed_tokens == 0


@BOTH
def test_without_offload_not_a_byte_moves(setup: str) -> None:
    engine = ran(setup, TokenFlow(offload=False))
    assert engine.h2d.blocks == engine.d2h.blocks == engine.h2d.busy_s == engine.d2h.busy_s == 0
    assert engine.count.drops > 0
    assert engine.count.recomputed_tokens > 0


# ---- the bound on rates


def bound_views(policy: TokenFlow) -> tuple[list[tuple[float, float, float, bool]], Views]:
    """What the policy thought at each decision: time, admitted rates, Gamma, overloaded."""
    seen: list[tuple[float, float, float, bool]] = []

    def note(engine: Engine, view: View, plan: Plan) -> None:
        policy = engine.policy
        assert isinstance(policy, TokenFlow)
        rates = float(view.consumption_rate[Scene(view).admitted].sum())
        seen.append((view.now_s, rates, policy._max_rate, policy._overloaded))
    return seen, Views(note)


def heavy_prefill(seed: int = 3) -> list[Ask]:
    """Readers of many tokens/s first, then a stretch of long prompts: what the engine can generate falls below what is read."""
    rng = np.random.default_rng(seed)
    early = [Ask(0.0, 256, 1500, 22.0) for _ in range(34)]
    late = [Ask(float(t), 3000, 64, 22.0) for t in np.sort(rng.uniform(5, 40, 60))]
    return early + late + [Ask(float(t), 256, 256, 22.0) for t in np.sort(rng.uniform(60, 90, 30))]


@pytest.mark.parametrize("policy", ["tokenflow", "tokenflow-paper"])
def test_the_rate_bound_engages_and_releases_with_hysteresis(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = POLICIES[policy](rate_margin=1.0)
    assert isinstance(made, TokenFlow)
    seen, views = bound_views(made)
    run = watched(heavy_prefill(), made, machine("burst-80", host_kv_blocks=12_000), views.check, monkeypatch)
    over = [flag for *_, flag in seen]
    engaged = over.index(True)
    released = engaged + over[engaged:].index(False)
    assert seen[engaged][1] > seen[engaged][2]
    assert seen[released][1] < 0.9 * seen[released][2]
    between = [rates / limit for _, rates, limit, _ in seen[engaged:released]]
    assert min(between) < 1.0, "inside the band it stays engaged"
    assert (run.records.fate == 1).all()


def overloaded_view() -> View:
    """Two residents that arrived late, two on the host that arrived early; memory for two."""
    gpu, host = Residency.GPU, Residency.HOST
    n, prompt, output = 4, np.full(4, 160), np.full(4, 40)
    computed = prompt + output - 1
    none = np.full(n, np.nan)
    return View(50.0, np.arange(n), np.arange(n) * 1.0, prompt, output, np.full(n, 400), computed, computed.astype(float),
                np.array([host, host, gpu, gpu]), np.full(n, 20.0), lambda: np.array([60.0, 59.0, 51.0, 50.5]),
                np.array([1, 1, 0, 0]), np.zeros(n), np.ones(n), none, none, np.ones(n, int), 4, 30, 100, 200, 16, 8, 4096,
                0.0, 0.0, 100, 4, 400, 640, 3.0, 0.5, Beliefs(machine("burst-80")))


def test_beyond_the_bound_the_paper_runs_in_order_of_arrival() -> None:
    for fallback, chosen in (("hold", [False, False, True, True]), ("fcfs", [True, True, False, False])):
        policy, view = TokenFlow(fallback=fallback), overloaded_view()       # type: ignore[arg-type]
        policy._learnt.observe(view)
        policy._overloaded = True
        scene = Scene(view)
        assert policy._chosen(scene, policy._utilities(scene), scene.ready, []).tolist() == chosen


# ---- when nothing is short


@pytest.mark.parametrize(("name", "requests", "rate"), [("burst-80", 60, 1.0), ("burst-400", 200, 8.0)])
def test_an_unstressed_run_is_sglang(name: str, requests: int, rate: float) -> None:
    """Memory for all, and arrivals so far apart that every buffer covers the next prompt."""
    calm = [replace(ask, arrival_s=i / rate) for i, ask in enumerate(asks(name, num_prompts=requests, output_len="normal:256:51"))]
    on = machine(name)
    one, other = (run_engine(calm, POLICIES[policy](), on) for policy in ("sglang", "tokenflow"))
    assert one.log.batches == other.log.batches
    assert one.log.ends_s == other.log.ends_s
    assert other.engine.h2d.blocks == 0


# ---- Table 1


ROWS = [f"table1-{gpu}-{row}" for gpu in ("4090", "h200") for row in "abc"]      # d is c at twice the rate


def nobody_waits_in_vain(engine: Engine, view: View, plan: Plan) -> None:
    """Whoever heads the queue has to wait for memory, a seat or a bound."""
    policy, scene = engine.policy, Scene(view)
    assert isinstance(policy, TokenFlow)
    if not len(scene.waiting) or policy._overloaded or plan.prefill:
        return
    row, members = scene.waiting[0], scene.admitted
    coming = [int(r) for r in view.rows(np.array(policy._coming, np.int64))]
    taken = sum(scene.whole_blocks(int(r)) for r in (*coming, *view.rows(plan.load)))
    need = scene.whole_blocks(int(row)) + len(scene.ready) + len(scene.midway)
    demand = peak_tokens(view, np.append(members.nonzero()[0], row))
    pool = policy.overcommit * (policy.fill * view.total_blocks + view.host_total_blocks) * view.block_size
    rates = float(view.consumption_rate[members].sum() + view.consumption_rate[row])
    seats = scene.seats - len(coming) - len(plan.load)
    in_vain = scene.free - taken >= need and seats > 0 and demand <= pool and rates <= policy._max_rate
    assert not in_vain, f"request {view.id[row]} waits at {view.now_s} s for nothing"


@pytest.mark.slow
@pytest.mark.parametrize("host", [1, 2])
@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_table_1(row: str, host: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rate = workload(row).request_rate
    requests = asks(row, **{} if rate is None else {"num_prompts": int(100 * rate)})
    on = machine(row, host_kv_blocks=host * machine(row).kv_blocks)
    sglang = run_engine(requests, POLICIES["sglang"](), on)
    tokenflow = watched(requests, TokenFlow(), on, nobody_waits_in_vain, monkeypatch)
    assert (tokenflow.records.fate == 1).all()
    assert sglang.records.last_s.max() / tokenflow.records.last_s.max() >= 0.97        # same tokens: raw throughput
    assert rebuffered_s(tokenflow, requests) <= rebuffered_s(sglang, requests) + 1e-9


def rebuffered_s(ran: Ran, requests: list[Ask]) -> float:
    """Mean stall over the requests, straight from the token times."""
    total = 0.0
    for id, ask in enumerate(requests):
        late = ran.records.token_times_s(id) - np.arange(ask.output) / ask.rate
        total += float(np.maximum.accumulate(late)[-1] - late[0])
    return total / len(requests)


def test_blocks_of_a_scene_count_the_next_token() -> None:
    view = overloaded_view()
    scene = Scene(view)
    assert scene.whole_blocks(2) == int(blocks_for(view.prompt_tokens + view.output_tokens + 1, 16)[2])
