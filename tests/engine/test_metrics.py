"""What travels from the scheduler to /metrics: how often, and that nothing is told twice or lost."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from calibrate.engine.stream import Stream
from policies.api import Residency
from sim.counters import Counters

pytestmark = pytest.mark.engine

@pytest.fixture
def metrics(fake: ModuleType) -> ModuleType:
    from calibrate.engine import metrics
    return metrics


class Scheduler(SimpleNamespace):
    """What a snapshot looks at."""

    def __init__(self) -> None:
        names = ("h2d_bytes", "d2h_bytes", "h2d_busy_s", "d2h_busy_s", "write_through_bytes")
        self.links = dict.fromkeys(names, 0.0)
        pool = SimpleNamespace(total_blocks=50, free_blocks=20)
        super().__init__(now_s=100.0, streams={}, count=Counters(), steps=0, departures=0, fallbacks=0,
                         arrivals=SimpleNamespace(misread=0), host=SimpleNamespace(pool=pool, totals=lambda: dict(self.links)))

    def clock(self) -> float:
        now_s: float = self.now_s
        return now_s


def stream(id: int, residency: int, read_until_s: float, rate: float, **more: Any) -> Stream:
    request = SimpleNamespace(num_output_tokens=5)
    return Stream(request, id, 90.0, 90.0, rate, read_until_s=read_until_s, residency=residency, **more)


def test_readers_and_residency(metrics: ModuleType) -> None:
    of = Scheduler()
    of.streams = dict(enumerate([stream(0, Residency.GPU, 102.0, 10.0), stream(1, Residency.HOST, 101.5, 20.0),
                                 stream(2, Residency.GPU, 99.0, 10.0), stream(3, Residency.LOADING, 105.0, 10.0, reader=0)]))
    data = metrics.Snapshots(of).due().data
    assert data["streams"] == {"none": 0, "gpu": 2, "host": 1, "loading": 1, "evicting": 0}
    assert data["buffered_tokens_by_residency"] == {"none": 0, "gpu": 20.0, "host": 30.0, "loading": 0, "evicting": 0}
    assert data["now"] == {"buffered_tokens": 50.0, "stalled_streams": 1, "host_blocks_total": 50, "host_blocks_used": 30}


def test_a_snapshot_now_and_then_and_when_all_is_over(metrics: ModuleType) -> None:
    of = Scheduler()
    snapshots = metrics.Snapshots(of)
    of.streams[0] = stream(0, Residency.GPU, 0.0, 10.0)
    seen = []
    for step in range(200):         # of 10 ms
        of.now_s = 100.0 + step / 100
        seen += [step] * (snapshots.due() is not None)
    assert seen == [0, 50, 100, 150]
    of.streams.clear()
    assert snapshots.due() is not None, "at once"
    assert snapshots.due() is None
    of.streams[0] = stream(0, Residency.GPU, 0.0, 10.0)
    assert snapshots.due() is None
    of.streams.clear()
    assert snapshots.due() is not None, "who comes and goes in between is told of, too"


def test_what_is_counted_is_told_once(metrics: ModuleType) -> None:
    of = Scheduler()
    of.streams[0] = stream(0, Residency.GPU, 0.0, 10.0)
    snapshots, sums = metrics.Snapshots(of), dict[str, float]()
    together = metrics.Stats({})
    for step in range(5):
        of.now_s += 1.0
        of.count.offloads, of.count.drops, of.steps = 3 * step, step, 100 * step
        of.links |= {"d2h_bytes": 1000.0 * step, "write_through_bytes": 600.0 * step, "h2d_busy_s": 0.1 * step}
        told = snapshots.due()
        sums = {name: sums.get(name, 0) + added for name, added in told.data["counted"].items()}
        assert metrics.Stats(told.data).is_empty() is False
        together = together.aggregate(told)
    assert (sums["preemptions"], sums["offloads"], sums["drops"], sums["steps"]) == (16, 12, 4, 400)
    assert (sums["evicted_bytes"], sums["written_through_bytes"]) == (1600.0, 2400.0)
    assert sums["link_h2d_busy_seconds"] == pytest.approx(0.4)
    assert together.data["counted"] == sums, "of several snapshots, as vLLM's log line has it"
    assert together.reduce()["preemptions"] == 16
    assert set(sums) == {*metrics.COUNTERS, *metrics.LINK_COUNTERS}
    together.reset()
    assert together.is_empty()
