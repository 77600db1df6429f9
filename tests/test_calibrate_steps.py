"""Measuring a grid with an engine that is not real: repeats, budget, errors."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from calibrate.engine.profile_engine import Step, TimeUp
from calibrate.profile_grid import Point
from calibrate.profile_steps import FEWEST, MOST, EngineDied, measure
from calibrate.samples import Samples

POINTS = [Point(chunks=1, chunk_tokens=100), Point(4, 200), Point(8, 400), Point(2, 300, 1, 64)]


class FakeEngine:
    """Takes what a fixed law says, on a clock of its own."""

    def __init__(self, device: str = "cpu", noise: float = 0.0, setup_s: float = 0.1, fails: dict[Point, Exception] | None = None,
                 survivor: bool = True, other: Point | None = None) -> None:
        self.device, self.noise, self.setup_s, self.fails = device, noise, setup_s, fails or {}
        self.survivor, self.other, self.now_s, self.steps = survivor, other, 0.0, 0
        self.rng = np.random.default_rng(1)
        self.cleared = True

    def begin(self, point: Point, in_time: Callable[[], bool]) -> None:
        assert self.cleared
        self.cleared = False
        for _ in range(point.decodes):
            if not in_time():
                raise TimeUp
            self.now_s += self.setup_s

    def step(self, point: Point, synchronise: bool) -> Step:
        if point in self.fails:
            raise self.fails[point]
        self.steps += 1
        grown, asked = self.steps, self.other or point
        forward_s = (0.01 + 1e-5 * point.tokens) * (1 + self.noise * self.rng.standard_normal())
        latency_s = forward_s + 0.002 + (0.5 if synchronise else 0.0)
        self.now_s += latency_s
        return Step(latency_s, forward_s if synchronise or self.device == "cpu" else 0.0, 0.001, 0.0005, 0.0004, asked.decodes,
                    asked.kv_tokens + asked.decodes * grown, ((asked.chunk_tokens, asked.done_tokens),) * asked.chunks, synchronise)

    def clear(self) -> None:
        self.cleared = True

    def survives(self) -> bool:
        self.clear()
        return self.survivor


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    samples = Samples(tmp_path / "samples", resume=False)
    samples.begin({})
    return samples


def rows(samples: Samples) -> list[dict[str, str]]:
    return list(csv.DictReader((samples.folder / "steps.csv").read_text().splitlines()))


def run(engine: FakeEngine, samples: Samples, budget_s: float = 100.0) -> int:
    return measure(engine, POINTS, samples, budget_s, clock=lambda: engine.now_s)


def test_a_steady_step_needs_few_repeats(samples: Samples) -> None:
    assert run(FakeEngine(), samples) == len(POINTS)
    for point, row in zip(POINTS, rows(samples)):
        assert int(row["repeats"]) == FEWEST
        assert float(row["forward_ms"]) == pytest.approx(10 + 0.01 * point.tokens, rel=1e-4)
        assert float(row["latency_ms"]) == pytest.approx(12 + 0.01 * point.tokens, rel=1e-4)
        assert (row["phase"], row["status"]) == (point.phase, "ok")


def test_an_unsteady_step_is_repeated(samples: Samples) -> None:
    run(FakeEngine(noise=0.2), samples)
    assert [int(row["repeats"]) for row in rows(samples)] == [MOST] * len(POINTS)
    for row in rows(samples):
        assert float(row["p10_ms"]) < float(row["latency_ms"]) < float(row["p90_ms"])


def test_repeats_end_with_the_points_share_of_the_budget(samples: Samples) -> None:
    engine = FakeEngine(noise=0.2)
    run(engine, samples, budget_s=10.0)         # 0.2 s a point: 15 to 20 steps
    assert all(FEWEST < int(row["repeats"]) < MOST for row in rows(samples))


def test_context_is_what_the_steps_had(samples: Samples) -> None:
    """Decodes grow by a token a step; the warm-up is step 1."""
    engine = FakeEngine()
    measure(engine, [Point(4, 200)], samples, 100.0, clock=lambda: engine.now_s)
    steps = np.arange(2, 2 + FEWEST)
    row = rows(samples)[0]
    assert int(row["tokens_or_context"]) == 200
    assert int(row["kv_tokens"]) == round(np.mean(4 * 200 + 4 * steps))


def test_on_a_gpu_waiting_for_the_forward_does_not_count_as_the_steps_time(samples: Samples) -> None:
    engine = FakeEngine("cuda")
    run(engine, samples)
    for point, row in zip(POINTS, rows(samples)):
        assert float(row["latency_ms"]) == pytest.approx(12 + 0.01 * point.tokens, rel=1e-4)
        assert float(row["forward_ms"]) == pytest.approx(10 + 0.01 * point.tokens, rel=1e-4)


def test_the_budget_ends_it_and_what_was_measured_stays(samples: Samples) -> None:
    engine = FakeEngine()
    done = run(engine, samples, budget_s=0.6)
    assert 1 <= done < len(POINTS)
    assert len(rows(samples)) == done
    assert engine.now_s < 1.5
    engine.now_s = 0.0
    assert run(engine, samples) == len(POINTS)
    assert len(rows(samples)) == len(POINTS)


def test_a_point_that_takes_long_to_set_up_comes_last(samples: Samples) -> None:
    engine = FakeEngine(setup_s=1.0)       # 8 decodes: 8 s of 40
    assert run(engine, samples, budget_s=40.0) == len(POINTS)
    assert [row["batch"] for row in rows(samples)] == ["1", "4", "2", "8"]


def test_an_error_at_one_point_leaves_the_others(samples: Samples) -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    engine = FakeEngine(fails={POINTS[1]: OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
                               POINTS[2]: ValueError("bad\nshape")})
    assert run(engine, samples) == len(POINTS)
    assert [row["status"] for row in rows(samples)] == ["ok", "skipped: out of memory", "skipped: ValueError: bad", "ok"]
    assert rows(samples)[1]["latency_ms"] == ""
    assert int(rows(samples)[1]["kv_tokens"]) == POINTS[1].kv_tokens


def test_an_engine_that_does_not_recover_ends_it(samples: Samples) -> None:
    with pytest.raises(EngineDied, match="4 decodes at 200: RuntimeError: illegal access"):
        run(FakeEngine(fails={POINTS[1]: RuntimeError("illegal access")}, survivor=False), samples)
    assert [row["status"] for row in rows(samples)] == ["ok", "skipped: RuntimeError: illegal access"]


def test_a_step_of_other_content_is_no_sample(samples: Samples) -> None:
    run(FakeEngine(other=Point(3, 200)), samples)
    assert {row["status"] for row in rows(samples)} == {"skipped: the engine ran 3 decodes + prompt chunks of []"}
