"""Host time of a step: what the GPU waits for while the engine schedules, launches and samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from traces import BadInput

from .tables import StepTable

#: of engines as they are (vLLM's V1 and SGLang), where nobody measured it
ASSUMED_S, ASSUMED_LOW_S, ASSUMED_HIGH_S = 0.8e-3, 0.4e-3, 1.2e-3
ASSUMED = "estimated: scheduling, launch and sampling on current engines, not measured on this GPU"


@dataclass(frozen=True)
class HostTime:
    """Seconds a step, the range they may lie in, and how many of them the measured latencies hold already."""

    value_s: float
    low_s: float
    high_s: float
    inside_s: float
    status: str

    @property
    def measured(self) -> bool:
        return self.status.startswith("measured")


def host_time(table: StepTable, given_s: float | None = None) -> HostTime:
    """What the user gave; else as the samples timed it; else none is in the table and the usual is assumed beside it.

    Of samples it is that of the decode steps (of all where there are none) with fewest requests: what it grows by from there on is
    part of the model's time per request.
    """
    if given_s is not None:
        shortest_s = float(table.seconds.min())
        if not 0 <= given_s < shortest_s:
            raise BadInput("--host-time-ms", f"{1e3 * given_s:g}", (
                f"must be zero or more, and less than the {1e3 * shortest_s:g} ms that the shortest step takes"))
        return HostTime(given_s, given_s, given_s, given_s, "given by the user, as part of the measured latencies")
    if table.host_s is None:
        return HostTime(ASSUMED_S, ASSUMED_LOW_S, ASSUMED_HIGH_S, 0.0, ASSUMED)
    decodes = table.phase == "decode" if (table.phase == "decode").any() else np.ones(len(table.phase), np.bool_)
    own, seqs = np.minimum(table.host_s, 0.9 * table.seconds)[decodes], table.work[decodes, 3]
    value = min(float(np.median(own[seqs == seqs.min()])), 0.9 * float(table.seconds.min()))
    low, high = (float(np.percentile(own, part)) for part in (10, 90))
    return HostTime(value, min(low, value), max(high, value), value,
                    "measured: schedule, sample and update of the decode steps with fewest requests; range of the middle 80 %")
