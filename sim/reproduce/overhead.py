"""What one `plan` call costs on this computer, beside the paper's 0.07 to 0.4 ms."""

from __future__ import annotations

import time
from typing import Any, Self

import numpy as np

from policies import POLICIES, Plan, Policy, View

REQUESTS = (400, 5000)
_POLICIES = ("sglang", "tokenflow", "tokenflow-paper", "andes")
_UNTIL_S = 30.0             # of simulated time: many requests wait, all seats are taken


class Timed:
    """A policy whose plan calls are timed; a run works on it, not on a copy."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.engine_step_tokens = getattr(policy, "engine_step_tokens", 2048)
        self.seconds: list[float] = []

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def plan(self, view: View) -> Plan:
        start_s = time.thread_time()
        plan = self._policy.plan(view)
        self.seconds.append(time.thread_time() - start_s)
        return plan


def measure(quick: bool = False) -> dict[str, dict[str, Any]]:
    """By policy and number of requests: CPU milliseconds of a plan call, over all calls of the first seconds of a burst."""
    from ..simulate import simulate
    from ..workloads import workload
    named, told = workload("table1-h200-a"), {}
    for policy in _POLICIES:
        for requests in REQUESTS:
            timed = Timed(POLICIES[policy]())
            simulate(timed, named.trace(1, num_prompts=requests), until_s=_UNTIL_S / (6 if quick else 1), **named.machine)
            spent = np.array(timed.seconds) * 1000
            told[f"{policy}, {requests:,} requests"] = {
                "calls": len(spent), "median_ms": round(float(np.median(spent)), 4), "mean_ms": round(float(spent.mean()), 4),
                "p99_ms": round(float(np.percentile(spent, 99)), 4)}
    return told
