"""One run of a study in whichever process does it, and what is kept of it. Nothing in here may depend on that process."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.api import Floats
from traces import BadInput, Trace

from ..cli_options import RunOptions
from ..records import Fate
from ..result import Result
from ..saving import run_facts
from .setup import simulated

SHARES = 101        #: quantiles of a curve: of 0, 1, ..., 100 %


@dataclass(frozen=True)
class Task:
    key: str
    options: RunOptions
    trace: Trace
    folder: str         #: where names of files begin


def carried_out(task: Task) -> dict[str, Any]:
    """What is kept; {"failed": why} of a run that came to no end, for others go on."""
    with suppress(OSError):                 # a cluster that does not share our files finds those of the package all the same
        if os.getcwd() != task.folder:
            os.chdir(task.folder)
    result = ended(task.options, task.trace)
    return {"failed": result} if isinstance(result, str) else kept(result)


def ended(options: RunOptions, trace: Trace) -> Result | str:
    """The result of a simulation, or why it came to no end."""
    try:
        return simulated(options, trace)
    except Exception as error:              # of ours, or of a library's: one run's, all the same
        return one_line(error)


def one_line(error: Exception) -> str:
    """What went wrong."""
    return str(error) if isinstance(error, BadInput) else " ".join(f"{type(error).__name__}: {error}".split())


def kept(result: Result) -> dict[str, Any]:
    done = result.records.fate == Fate.COMPLETED
    readers = done & result.trace.reader
    return {"facts": run_facts(result), "max_concurrent_requests": max_concurrent(result),
            "curves": {"ttft_s": quantiles(result.metrics.ttft_s[done]),
                       "rebuffer_s": quantiles(result.metrics.reading.rebuffer_s[readers])}}


def quantiles(values: Floats) -> list[float]:
    """Of 0, 1, ..., 100 % of them, to six digits; empty when there are none."""
    known = values[~np.isnan(values)]
    if not len(known):
        return []
    return [float(f"{value:.6g}") for value in np.percentile(known, np.linspace(0, 100, SHARES)).tolist()]


def max_concurrent(result: Result) -> int:
    """The most completed requests in flight within one second: vLLM's `max_concurrent_requests`."""
    done = result.records.fate == Fate.COMPLETED
    if not done.any():
        return 0
    sent_s, last_s = result.records.sent_s[done], result.records.last_s[done]
    first, last = np.floor(sent_s - sent_s.min()).astype(int), np.floor(last_s - sent_s.min()).astype(int)
    came, left = np.bincount(first, minlength=last.max() + 2), np.bincount(last + 1, minlength=last.max() + 2)
    return int((np.cumsum(came) - np.cumsum(left)).max())
