"""The time series of a run: counted anew instant by instant, conserved, bounded, and without any effect on the run."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
from builders import Ask, Log, Rotate, machine, random_asks, random_machine, run_engine

from policies import POLICIES
from policies.api import Residency, blocks_for
from sim import simulate
from sim.engine import Engine
from sim.timeline import MOST_POINTS, SHORTEST_S, STATES, Bins, Recorder
from traces import generate, make_trace

BURST = {"input_len": "normal:512:100", "output_len": "normal:200:40", "seed": 3}
MAKERS = {"vllm": POLICIES["vllm"], "sglang": POLICIES["sglang"], "tokenflow": POLICIES["tokenflow"], "rotate": Rotate}


class Seen:
    """What the engine holds at chosen instants, asked of its tables."""

    def __init__(self, engine: Engine, instants_s: list[float]) -> None:
        self.engine, self.rows, self.run = engine, {}, None
        next_run = engine._next_run

        def noted() -> Any:
            self.run = next_run()
            return self.run
        engine._next_run = noted        # type: ignore[method-assign]
        engine.env.process(self._look(instants_s))

    def _look(self, instants_s: list[float]) -> Generator[Any, Any, None]:
        env, q, kv = self.engine.env, self.engine.requests, self.engine.kv
        for instant in instants_s:
            yield env.timeout(instant - env.now)
            if not q.n:
                continue
            self.engine.settle()
            where = np.bincount(q.residency[: q.n], minlength=5)
            run = self.run
            computing = len(run.rows) if run is not None and run.start_s <= env.now < run.ends_s[-1] else 0
            marked = np.zeros(q.n, np.bool_)
            marked[self.engine.copies.rows] = True
            granted = np.zeros(q.n, np.int64)       # to the step under way
            if computing:
                computed = q.computed_tokens[run.rows]
                granted[run.rows] = blocks_for(computed + run.tokens, kv.block_size) - blocks_for(computed, kv.block_size)
            self.rows[instant] = {
                "queued": where[Residency.NONE], "running": computing, "paused": where[Residency.GPU] - computing,
                "loading": where[Residency.LOADING], "on_host": where[Residency.HOST], "evicting": where[Residency.EVICTING],
                "gpu_blocks": kv.total - kv.free + granted.sum(), "host_blocks": kv.host_held(marked) + granted[marked].sum(),
                "h2d_backlog_s": max(self.engine.h2d.free_s - env.now, 0.0),
                "d2h_backlog_s": max(self.engine.d2h.free_s - env.now, 0.0)}


@pytest.mark.unaudited
@pytest.mark.parametrize("name", MAKERS)
def test_the_same_as_looking_at_every_instant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run is recorded, running ahead; another, step by step, is looked at in the middle of each of the first one's bins."""
    compared = 0
    for seed in range(6):
        rng = np.random.default_rng([7, seed])
        asks = random_asks(rng, 14, prompt=300, output=40, rate=20.0)
        on = random_machine(rng, asks, tight=True)
        recorder = Recorder()
        ran = run_engine(asks, MAKERS[name](), on, watch=recorder)
        told = recorder.timeline(ran.engine).columns()
        middles = (told["start_s"] + told["end_s"]) / 2
        looks: list[Seen] = []
        build = Engine.__init__

        def looked_at(self: Engine, *args: Any, build: Any = build, looks: Any = looks, at: Any = middles, **kw: Any) -> None:
            build(self, *args, **kw)
            looks.append(Seen(self, at.tolist()))
        with monkeypatch.context() as patched:
            patched.setattr(Engine, "__init__", looked_at)
            run_engine(asks, MAKERS[name](), on, step_by_step=True)
        for i, middle in enumerate(middles.tolist()):
            if middle not in looks[0].rows:
                continue
            for column, value in looks[0].rows[middle].items():
                if column.endswith("_s"):
                    assert told[column][i] == pytest.approx(value, abs=told["end_s"][i] - told["start_s"][i] + 1e-9), column
                elif told[f"max_{column}"][i] == told[column][i]:       # nothing happens within the bin
                    assert told[column][i] == value, (column, seed, middle)
                    compared += 1
                else:
                    assert 0 <= value <= told[f"max_{column}"][i], column
    assert compared > 5_000


@pytest.mark.parametrize("name", ["vllm", "sglang-chunked", "tokenflow", "least-slack"])
def test_everyone_in_the_system_is_in_one_column(name: str) -> None:
    """Little's law, to the last bit: what the columns sum up to over time is what the requests spent in the system."""
    trace = generate(30, arrival="poisson", request_rate=8.0, **BURST)
    result = simulate(name, trace, kv_tokens=6_000, timeline=True)
    told = result.timeline.columns()
    spans = told["end_s"] - told["start_s"]
    assert sum((told[state] * spans).sum() for state in STATES) == pytest.approx(np.nansum(result.metrics.e2e_s), rel=1e-9)
    inside = sum(told[state] for state in STATES)
    sent, last = result.records.sent_s, result.records.last_s
    for i in range(0, len(spans), 37):
        start, end = told["start_s"][i], told["end_s"][i]
        present = np.clip(np.minimum(last, end) - np.maximum(sent, start), 0, None).sum()
        assert inside[i] == pytest.approx(present / (end - start), abs=1e-6)
    assert (told["start_s"][1:] == told["end_s"][:-1]).all()
    assert told["start_s"][0] == 0
    assert told["end_s"][-1] == pytest.approx(last.max())


@pytest.mark.parametrize("name", ["vllm", "tokenflow", "least-slack"])
def test_areas_agree_with_what_the_engine_counts(name: str) -> None:
    log = Log()
    result = simulate(name, generate(40, **BURST), kv_tokens=8_000, timeline=True, watch=log)
    told, count, links = result.timeline.columns(), result.counters, result.links
    spans = told["end_s"] - told["start_s"]
    assert ((told["running"] > 0) * spans).sum() >= count.decode_s + count.prefill_s - 1e-6
    steps = np.diff(log.ends_s, prepend=0.0)
    batches = np.array([len(batch) for batch in log.batches])
    if name == "vllm":                      # never idle: every step begins where the last one ended
        assert (told["running"] * spans).sum() == pytest.approx((batches * steps).sum(), rel=1e-9)
    for link in ("h2d", "d2h"):
        assert (told[f"{link}_bytes_per_s"] * spans).sum() == pytest.approx(links[f"{link}_bytes"], rel=1e-6)
    assert told["max_gpu_blocks"].max() <= result.machine.kv_blocks
    assert told["max_host_blocks"].max() <= result.machine.host_kv_blocks
    for column in told:
        if f"max_{column}" in told:
            assert (told[f"max_{column}"] >= told[column] - 1e-9).all()
            assert (told[column] >= 0).all()
    assert sum(told[state][0] for state in STATES) == 40, "admitted at once, they queue for no time at all"
    assert log.plans, "the user's own watch sees everything as well"


@pytest.mark.unaudited
@pytest.mark.parametrize("name", ["vllm", "sglang", "tokenflow"])
def test_asking_changes_nothing(name: str) -> None:
    trace = generate(60, arrival="poisson", request_rate=6.0, **BURST)
    plain, told = (simulate(name, trace, kv_tokens=6_000, timeline=asked) for asked in (False, True))
    assert plain.timeline is None
    for id in range(len(trace)):
        assert plain.token_times_s(id).tolist() == told.token_times_s(id).tolist()
    hidden = {"write_through_bytes", "d2h_bytes", "d2h_busy_s", "d2h_utilisation"}      # sums in another order
    assert {k: v for k, v in plain.summary.items() if k not in hidden} == {k: v for k, v in told.summary.items() if k not in hidden}
    for key in hidden:
        assert plain.summary[key] == pytest.approx(told.summary[key], rel=1e-9)


@pytest.mark.parametrize("name", ["vllm", "sglang-chunked"])
def test_memory_is_held_from_the_beginning_of_a_step(name: str) -> None:
    """Engines allocate before the step: a prompt holds its blocks while it is prefilled."""
    trace = make_trace([0.0], 2000, 20)
    result = simulate(name, trace, timeline=True)
    told = result.timeline.columns()
    during = told["end_s"] < result.metrics.ttft_s[0]
    assert during.sum() > 10
    assert (told["gpu_blocks"][during] == 125).all()
    stopped = simulate(name, trace, timeline=True, until_s=float(result.metrics.ttft_s[0]) / 2).timeline.columns()
    assert stopped["gpu_blocks"].min() == 125


@pytest.mark.parametrize(("duplex", "believed_link"), [(1.0, 1.0), (0.6, 1.0), (0.6, 3.0)])
@pytest.mark.parametrize("name", ["tokenflow", "rotate"])
def test_no_link_carries_more_than_its_rate(name: str, duplex: float, believed_link: float) -> None:
    """Write-through waits for queued copies, and shares with the other direction; so does what is drawn of it."""
    busy = 0
    for seed in range(8):
        rng = np.random.default_rng([11, seed])
        asks = random_asks(rng, 14, prompt=300, output=40, rate=20.0)
        on = replace(random_machine(rng, asks, tight=True), duplex_h2d=duplex, duplex_d2h=duplex, believed_link=believed_link)
        for stop_s in (inf, 0.4, 1.3):
            recorder = Recorder()
            engine = run_engine(asks, MAKERS[name](), on, watch=recorder, stop_s=stop_s).engine
            told = recorder.timeline(engine).columns()
            for link, rate in (("h2d", on.h2d_bytes_per_s), ("d2h", on.d2h_bytes_per_s)):
                assert told[f"{link}_bytes_per_s"].max(initial=0) <= rate * (1 + 1e-9), (seed, stop_s, link)
                busy += (told[f"{link}_bytes_per_s"] > 0.9 * rate).sum()
                if stop_s == inf:
                    carried = (told[f"{link}_bytes_per_s"] * (told["end_s"] - told["start_s"])).sum()
                    blocks = carried / (on.block_size * on.kv_token_bytes)
                    assert blocks == pytest.approx(getattr(engine, link).blocks, rel=1e-6, abs=1e-6)
    assert busy > 50


def test_stopped_before_anyone_came_there_are_no_points() -> None:
    told = simulate("vllm", make_trace([10.0], 30, 20), timeline=True, until_s=5.0).timeline
    assert {len(column) for column in told.columns().values()} == {0}
    assert len(told.frame) == 0


def test_stopped_half_way_it_goes_on_to_the_stop() -> None:
    trace = generate(40, **BURST)
    whole = simulate("sglang", trace, kv_tokens=8_000, timeline=True)
    stop_s = whole.end_s / 3
    told = simulate("sglang", trace, kv_tokens=8_000, timeline=True, until_s=stop_s).timeline.columns()
    assert told["end_s"][-1] == pytest.approx(stop_s)
    spans, rest = told["end_s"] - told["start_s"], whole.timeline.columns()
    for column in STATES:
        upto = np.clip(np.minimum(rest["end_s"], stop_s) - rest["start_s"], 0, None)
        assert (told[column] * spans).sum() == pytest.approx((rest[column] * upto).sum(), rel=1e-2), column
    assert sum(told[state][-1] for state in STATES) > 0


def test_idle_stretches_and_a_late_start() -> None:
    told = simulate("vllm", make_trace([1.0, 50.0], 30, 20), timeline=True).timeline.columns()
    busy = told["running"] > 0
    assert told["start_s"][busy].min() == pytest.approx(1.0, abs=0.1)
    idle = (told["start_s"] > 5) & (told["end_s"] < 49)
    assert idle.sum() > 100
    assert all((told[state][idle] == 0).all() for state in (*STATES, "gpu_blocks"))


def test_never_more_points_than_promised() -> None:
    short = simulate("vllm", make_trace([0.0], 30, 2), timeline=True).timeline.columns()
    assert short["end_s"][0] - short["start_s"][0] == pytest.approx(SHORTEST_S)
    for gap_s in (1.0, 37.0, 9_000.0):
        told = simulate("vllm", make_trace(np.arange(12) * gap_s, 30, 20), timeline=True).timeline.columns()
        assert MOST_POINTS / 2 - 1 <= len(told["start_s"]) <= MOST_POINTS
        assert len({len(column) for column in told.values()}) == 1
        width = told["end_s"][0] - told["start_s"][0]
        assert np.log2(width) == int(np.log2(width)), "a power of two: bins of two runs nest"


def test_bins_are_means_and_maxima() -> None:
    """Against a sum piece by piece, bin by bin."""
    rng = np.random.default_rng(5)
    for most in (4, 16):
        starts = np.concatenate(([0.0], np.sort(rng.uniform(0, 40, 300))))
        values, end_s = rng.integers(0, 9, (len(starts), 2)).astype(float), 41.3
        bins = Bins(2, 2, most, 0.25)
        for part in np.array_split(np.arange(len(starts)), 7):
            last = part[-1] + 1
            bins.add(starts[part], starts[last] if last < len(starts) else end_s, values[part])
        edges = np.append(starts, end_s)
        start, end, mean, top = bins.told()
        assert len(start) <= most
        for i in range(len(start)):
            overlap = np.clip(np.minimum(edges[1:], end[i]) - np.maximum(edges[:-1], start[i]), 0, None)
            assert mean[i] == pytest.approx((overlap[:, None] * values).sum(axis=0) / (end[i] - start[i]))
            assert top[i].tolist() == values[overlap > 0].max(axis=0).tolist()
        assert end[-1] == end_s


def test_a_table_for_pandas() -> None:
    result = simulate("vllm", make_trace([0.0, 0.1], 20, 5), timeline=True)
    frame = result.timeline.frame
    assert list(frame) == list(result.timeline.columns())
    assert len(frame) == len(result.timeline.columns()["queued"])


def test_paused_by_the_policy_is_not_running() -> None:
    """SGLang's prefill-first steps compute no one who decodes."""
    asks = [Ask(0.0, 100, 200), *(Ask(0.5 + i / 10, 600, 50) for i in range(4))]
    recorder = Recorder()
    told = recorder.timeline(run_engine(asks, POLICIES["sglang"](), machine(), watch=recorder).engine).columns()
    assert told["max_paused"].max() >= 1
    mixed = Recorder()
    told = mixed.timeline(run_engine(asks, POLICIES["vllm"](), machine(), watch=mixed).engine).columns()
    assert told["max_paused"].max() == 0
