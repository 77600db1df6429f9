"""What is kept of a run: numbers of its summary and, where a figure asks for them, series of few points."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from policies.api import Floats

from ..errors import Wedged
from ..records import Fate
from ..result import Result
from .runs import Run, Values

SUMMARY = ("completed", "unfinished", "rejected", "duration", "output_throughput", "effective_throughput", "qos", "mean_qoe",
           "mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "mean_rebuffer_s", "p99_rebuffer_s", "stalled_share",
           "preemptions", "offloads", "drops", "overlaps", "unwritten_tokens", "late_s", "recomputed_tokens", "h2d_bytes",
           "d2h_bytes", "gpu_busy_share")

_POINTS = 150       # of a series over time
_REQUESTS = 400     # of a series by request


def simulated(run: Run) -> tuple[Values, float]:
    """The values of a run, and the CPU seconds it took. A policy that wedges is a result too: {"failed": why}."""
    from ..policy_choice import choose
    from ..simulate import simulate
    from ..workloads import workload
    start_s = time.process_time()
    named = workload(run.workload)
    try:
        result = simulate(choose(run.policy).policy, run.trace(), consume_rate=run.consume_tps, seed=run.seed,
                          timeline="residency" in run.keep, **(named.machine | dict(run.machine)))
    except Wedged as error:
        return {"failed": str(error)}, time.process_time() - start_s
    values: dict[str, Any] = {name: _short(result.summary[name]) for name in SUMMARY}
    values["max_ttft_ms"] = _short(float(np.nanmax(result.metrics.ttft_s)) * 1000)
    for name in run.keep:
        values[name] = KEEP[name](result)
    return values, time.process_time() - start_s


def residency(result: Result) -> dict[str, Any]:
    """Requests and links over time, and the areas under them in request seconds."""
    assert result.timeline is not None
    told = result.timeline.columns()
    spans = told["end_s"] - told["start_s"]
    away = told["on_host"] + told["loading"] + told["evicting"]
    lines = {"queued": told["queued"], "running": told["running"] + told["paused"], "away": away, "evicting": told["evicting"],
             "loading": told["loading"], "d2h_gb_per_s": told["d2h_bytes_per_s"] / 1e9,
             "h2d_gb_per_s": told["h2d_bytes_per_s"] / 1e9}
    first = np.arange(0, len(spans), -(-len(spans) // _POINTS))
    widths = np.add.reduceat(spans, first)
    return {"at_s": _list(told["start_s"][first] + widths / 2),
            **{name: _list(np.add.reduceat(line * spans, first) / widths) for name, line in lines.items()},
            **{f"{name}_area": _short(float((line * spans).sum())) for name, line in lines.items()}}


def streams(result: Result) -> list[dict[str, Any]]:
    """Tokens generated and read over time: an early, a middle and the last request."""
    told, n = [], len(result.trace)
    for id in sorted({n // 10, n // 2, n - 1}):
        times_s = result.token_times_s(id)
        taken_s, _ = result.read_along(id)
        every = np.unique(np.linspace(0, len(times_s) - 1, min(_POINTS, len(times_s))).astype(int))
        told.append({"id": id, "tokens": _list(every + 1.0), "generated_s": _list(times_s[every]), "read_s": _list(taken_s[every])})
    return told


def classes(result: Result) -> list[dict[str, Any]]:
    """By the rate of the readers: how fast they were written to between first token and last, and how they fared."""
    done = result.records.fate == Fate.COMPLETED
    told = []
    for rate in np.unique(result.rates):
        who = done & (result.rates == rate)
        speed = (result.records.tokens[who] - 1) / (result.records.last_s - result.records.first_s)[who]
        stalled = result.metrics.reading.rebuffer_s[who]
        read_s = (result.records.tokens[who] - 1) / rate
        told.append({"tps": float(rate), "requests": int(np.count_nonzero(who)), "generated_tps": _short(float(speed.mean())),
                     "slowest_tps": _short(float(speed.min())),
                     "read_tps": _short(float((rate * read_s / (read_s + stalled)).mean())),
                     "mean_ttft_s": _short(float(result.metrics.ttft_s[who].mean())),
                     "mean_rebuffer_s": _short(float(stalled.mean())),
                     "stalled_share": _short(float((stalled > 0).mean()))})
    return told


def waits(result: Result) -> dict[str, Any]:
    """Of each request, in order of arrival: TTFT, and the speed at which it was written afterwards."""
    records = result.records
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = (records.tokens - 1) / (records.last_s - records.first_s)
    every = np.unique(np.linspace(0, len(result.trace) - 1, min(_REQUESTS, len(result.trace))).astype(int))
    return {"id": every.tolist(), "ttft_s": _list(result.metrics.ttft_s[every]), "generated_tps": _list(speed[every])}


KEEP: dict[str, Callable[[Result], Any]] = {"residency": residency, "streams": streams, "classes": classes, "waits": waits}


def _list(values: Floats) -> list[float | None]:
    return [_short(value) for value in values.tolist()]


def _short(value: Any) -> Any:
    """A float to nine digits, so that the file is no longer than it needs to be; NaN and infinity are None."""
    if isinstance(value, float):
        return float(f"{value:.9g}") if np.isfinite(value) else None
    return value
