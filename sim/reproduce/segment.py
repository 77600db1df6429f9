"""Twenty minutes of a real BurstGPT file: its busiest ones."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from traces import BadInput, Trace, load_trace

_LENGTH_S = 1200.0


def segment(file: str, num_prompts: int | None = None, request_rate: float | None = None, **_: object) -> Trace:
    """The busiest 20 minutes of the file; of them the first `num_prompts`, in time scaled to `request_rate` where one is given.

    What laws a generator would draw from plays no part.
    """
    everything = whole(file)
    begin = busiest_s(everything)
    part = everything.window(start_s=begin, end_s=begin + _LENGTH_S)
    if request_rate is not None:
        part = part.window(time_scale=len(part) / _LENGTH_S / request_rate)
    return part if num_prompts is None else part.window(limit=num_prompts)


def busiest_s(trace: Trace) -> float:
    """Where the 20 minutes with most requests begin."""
    times = trace.arrival_s
    within = times.searchsorted(times + _LENGTH_S) - np.arange(len(times))
    return float(times[int(within.argmax())])


@lru_cache(maxsize=1)
def whole(file: str) -> Trace:
    trace = load_trace(file)
    if not len(trace):
        raise BadInput("--burstgpt", file, "holds no requests")
    return trace
