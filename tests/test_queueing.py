"""The engine against queueing theory: M/D/1 waiting time and Little's law, within 2 %."""

from __future__ import annotations

import numpy as np
import pytest
from builders import EVEN, FAST, Ask, Log, machine, run_engine

from policies import Vllm
from sim.engine import Engine
from sim.run import Run

STEP_S = EVEN.step_s(1, 0, 0, 1)


@pytest.mark.unaudited
@pytest.mark.parametrize("load", [0.3, 0.6])
def test_waiting_time_of_m_d_1(load: float) -> None:
    """One seat, a prefill and two decode steps of equal length each: Pollaczek-Khinchine, and request by request Lindley."""
    service_s, n = 3 * STEP_S, 12_000
    arrival_s = np.random.default_rng(6).exponential(service_s / load, n).cumsum()
    ran = run_engine([Ask(t, 10, 3) for t in arrival_s.tolist()], Vllm(), machine(latency=EVEN, max_seqs=1), watch=Quiet())
    waits_s = ran.records.first_s - STEP_S - arrival_s
    expected, wait = [], 0.0
    for gap in np.diff(arrival_s, append=np.inf).tolist():
        expected.append(wait)
        wait = max(0.0, wait + service_s - gap)
    np.testing.assert_allclose(waits_s, expected, rtol=0, atol=1e-6)
    assert waits_s.mean() == pytest.approx(load * service_s / (2 * (1 - load)), rel=0.02)


class Quiet(Log):
    """Forgets what it sees."""

    def decided(self, *_: object) -> None:
        pass

    def ran(self, *_: object) -> None:
        pass


class Census(Quiet):
    """Adds up how many requests are in the system, over time, as seen at the ends of runs."""

    def __init__(self) -> None:
        self.area, self.last_s = 0.0, 0.0

    def ran(self, engine: Engine, run: Run) -> None:        # type: ignore[override]
        """Whoever is here now counts since the last run, or since it arrived."""
        q, now = engine.requests, engine.env.now
        self.area += float((now - np.maximum(q.arrival_s[: q.n], self.last_s)).sum())
        self.last_s = now


@pytest.mark.unaudited
def test_littles_law() -> None:
    """L = lambda W, in a batched server with preemptions: L counted in the engine, W from the records."""
    rng, n, rate = np.random.default_rng(0), 3000, 3.3
    arrival_s = rng.exponential(1 / rate, n).cumsum()
    asks = [Ask(t, int(p), int(o)) for t, p, o in zip(arrival_s.tolist(), rng.integers(10, 500, n), rng.integers(10, 300, n))]
    census = Census()
    ran = run_engine(asks, Vllm(), machine(latency=FAST, kv_blocks=100), watch=census)
    assert ran.engine.count.drops > 100
    seconds = float(ran.records.last_s.max())
    mean_in_system = census.area / seconds
    sojourn_s = float((ran.records.last_s - ran.records.sent_s).mean())
    assert mean_in_system > 3
    assert mean_in_system == pytest.approx(n / seconds * sojourn_s, rel=0.02)
    assert n / seconds == pytest.approx(rate, rel=0.02)


def test_a_saturated_engine_is_never_idle() -> None:
    """All requests there from the start: the GPU is busy for the whole makespan."""
    ran = run_engine([Ask(0.0, 50, 40)] * 60, Vllm(), machine(max_seqs=8))
    count = ran.engine.count
    assert count.decode_s + count.prefill_s == pytest.approx(float(ran.records.last_s.max()), rel=1e-9)
