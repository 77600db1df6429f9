"""Measures the points of a grid one after the other, each until its median is known or its time is up."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .engine.profile_engine import Step, TimeUp
from .profile_grid import Point

if TYPE_CHECKING:
    from .samples import Samples

TIGHT = 0.02            #: of the median: half the width of its 95% interval at which a point is done
FEWEST, MOST = 5, 30    #: repeats
SHARE = 0.02            #: of the budget: a point's time after its fewest repeats
SETUP_SHARE = 0.15      #: of the budget: a point that takes longer to set up is put off until all others are measured
_SKEWED = 3             # steps of another content than was asked for, after which a point is given up


class Steps(Protocol):
    """`calibrate.engine.profile_engine.Engine`, as this file uses it."""

    device: str

    def begin(self, point: Point, in_time: Callable[[], bool]) -> None: ...
    def step(self, point: Point, synchronise: bool) -> Step: ...
    def clear(self) -> None: ...
    def survives(self) -> bool: ...


Report = Callable[[int, int, str], None]        # points done, of how many, the next one


class EngineDied(Exception):
    """An error from which the engine did not recover."""


def measure(engine: Steps, points: Sequence[Point], samples: Samples, budget_s: float, report: Report = lambda *_: None,
            clock: Callable[[], float] = time.monotonic) -> int:
    """Adds a row for each point until the budget ends; returns how many rows are there now. Raises EngineDied."""
    end_s = clock() + budget_s
    known = samples.measured()
    to_do = deque(point for point in points if point.key not in known)
    put_off: set[Point] = set()
    while to_do and clock() < end_s:
        point = to_do.popleft()
        report(len(points) - len(to_do) - 1, len(points), str(point))
        ready_s = end_s if point in put_off else min(end_s, clock() + SETUP_SHARE * budget_s)
        try:
            row = _measured(engine, point, ready_s, end_s, SHARE * budget_s, clock)
        except TimeUp:      # what was set up is in the prefix cache now
            engine.clear()
            to_do.append(point)
            put_off.add(point)
        except Exception as error:      # whatever the engine raises at this point, the others are still wanted
            samples.add(_failed(point, _why(error)))
            if not engine.survives():
                raise EngineDied(f"{point}: {_why(error)}") from None
        else:
            samples.add(row)
            engine.clear()
    report(len(points) - len(to_do), len(points), "")
    return len(points) - len(to_do)


def _measured(engine: Steps, point: Point, ready_s: float, end_s: float, share_s: float,
              clock: Callable[[], float]) -> dict[str, Any]:
    """The point's row. Raises TimeUp if it is not set up by `ready_s`, or none of it is measured by `end_s`."""
    engine.begin(point, lambda: clock() < ready_s)
    engine.step(point, False)       # warms up this shape
    cuda, skewed = engine.device == "cuda", 0
    whole: list[Step] = []
    parts: list[Step] = []
    stop_s = min(clock() + share_s, end_s)
    while len(whole) < MOST and not _tight([step.latency_s for step in whole]):
        if clock() >= (stop_s if len(whole) >= FEWEST else end_s):
            break
        # On a GPU, waiting for the forward shows its time but adds to the step's: every other step is measured as it runs.
        step = engine.step(point, cuda and len(whole) > len(parts))
        if not step.is_(point):
            skewed += 1
            if skewed >= _SKEWED:
                return _failed(point, f"the engine ran {step}")
        elif step.synchronised:
            parts.append(step)
        else:
            whole.append(step)
    if not whole:
        raise TimeUp
    return _row(point, whole, parts or whole)


def _tight(latencies_s: list[float]) -> bool:
    """Whether the median's 95% interval, from the order statistics, is narrow."""
    n = len(latencies_s)
    if n < FEWEST:
        return False
    ordered = np.sort(latencies_s)
    reach = 0.98 * n**0.5
    low, high = max(int(n / 2 - reach), 0), min(int(np.ceil(n / 2 + reach)), n - 1)
    return bool(ordered[high] - ordered[low] <= 2 * TIGHT * np.median(ordered))


def _row(point: Point, whole: list[Step], parts: list[Step]) -> dict[str, Any]:
    def ms(name: str, steps: list[Step], percent: float = 50) -> str:
        return f"{1e3 * float(np.percentile([getattr(step, name) for step in steps], percent)):.5g}"
    return _described(point) | {
        "kv_tokens": round(float(np.mean([step.kv_tokens for step in whole]))), "latency_ms": ms("latency_s", whole),
        "forward_ms": ms("forward_s", parts), "schedule_ms": ms("schedule_s", whole), "sample_ms": ms("sample_s", parts),
        "update_ms": ms("update_s", whole), "repeats": len(whole), "p10_ms": ms("latency_s", whole, 10),
        "p90_ms": ms("latency_s", whole, 90), "status": "ok",
    }


def _failed(point: Point, why: str) -> dict[str, Any]:
    empty = dict.fromkeys(("latency_ms", "forward_ms", "schedule_ms", "sample_ms", "update_ms", "p10_ms", "p90_ms"), "")
    return _described(point) | empty | {"repeats": 0, "status": f"skipped: {why}"}


def _described(point: Point) -> dict[str, Any]:
    names = ("phase", "batch", "tokens_or_context", "tokens", "kv_tokens", "pairs", "seqs")
    return {name: getattr(point, name) for name in names}


def _why(error: Exception) -> str:
    if "OutOfMemory" in type(error).__name__ or "out of memory" in str(error).lower():
        return "out of memory"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:160]
