"""Fixed workloads whose speed is followed from version to version: generated tokens per CPU second, and what they cost.

Each case runs in a process of its own, so that its peak memory is its own. CPU time is that of `simulate`, results built and
imports left out.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from traces import BadInput, Trace


@dataclass(frozen=True)
class Case:
    policy: str
    workload: Callable[[], Trace]
    hardware: str
    options: dict[str, Any] = field(default_factory=dict)
    repeats: int = 5
    stepped: bool = False       #: also measured with one step per event


def poisson(requests: int) -> Trace:
    from .workloads import workload
    return workload("poisson-1000").trace(num_prompts=requests)


def burst() -> Trace:
    from .workloads import workload
    return workload("burst-400").trace()


CASES = {
    "poisson-1000": Case("vllm", lambda: poisson(1_000), "a100", stepped=True),
    "burst-400-sglang": Case("sglang", burst, "h200", {"mem_fraction": 0.3}, stepped=True),
    "burst-400-tokenflow": Case("tokenflow", burst, "h200", {"mem_fraction": 0.3}, stepped=True),
    "poisson-10000": Case("vllm", lambda: poisson(10_000), "a100", repeats=3),
    "poisson-100000": Case("vllm", lambda: poisson(100_000), "a100", repeats=1),
}


def measure(name: str, profile: bool = False) -> dict[str, Any]:
    """One case in a process of its own; the keys of `_measure`. With `profile`, where the time goes is on standard error."""
    if name not in CASES:
        raise BadInput("bench", name, f"unknown case; known are {', '.join(CASES)}")
    words = [sys.executable, "-m", "sim.bench", name, "attached", *(["profile"] if profile else [])]
    its_stdin, kept_open = os.pipe()
    try:        # in a session of its own: Ctrl-C is for us, who end it, without a traceback of its own
        done = subprocess.run(words, stdin=its_stdin, stdout=subprocess.PIPE, text=True, check=False, start_new_session=True)
    finally:
        os.close(its_stdin)
        os.close(kept_open)
    if done.returncode:
        raise BadInput("bench", name, f"its process ended with exit code {done.returncode}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _measure(case: Case) -> dict[str, Any]:
    import resource

    from .simulate import simulate
    trace = case.workload()
    simulate(case.policy, trace.window(limit=8), case.hardware, "llama3-8b", **case.options)        # imports

    def cpu_s(step_by_step: bool = False) -> float:
        start = time.process_time()
        simulate(case.policy, trace, case.hardware, "llama3-8b", step_by_step=step_by_step, **case.options)
        return time.process_time() - start

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = simulate(case.policy, trace, case.hardware, "llama3-8b", **case.options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = statistics.median([cpu_s() for _ in range(case.repeats)])
    assert result.counters is not None
    tokens, runs = int(trace.output_tokens.sum()), result.counters.runs
    return {
        "policy": case.policy, "hardware": case.hardware, "requests": len(trace), "generated_tokens": tokens,
        "repeats": case.repeats, "cpu_s": seconds, "tokens_per_cpu_s": tokens / seconds, "runs": runs,
        "decisions": result.counters.decisions,
        "us_per_run": seconds / runs * 1e6, "peak_memory_mb": peak / 1024, "memory_of_the_run_mb": (peak - before) / 1024,
        "step_by_step_ratio": cpu_s(step_by_step=True) / seconds if case.stepped else None,
    }


def _profile(case: Case) -> None:
    import cProfile
    import pstats

    from .simulate import simulate
    trace = case.workload()
    with cProfile.Profile() as seen:
        simulate(case.policy, trace, case.hardware, "llama3-8b", **case.options)
    pstats.Stats(seen, stream=sys.stderr).sort_stats("tottime").print_stats(25)


def _leave_with_parent() -> None:
    """Standard input ends when whoever started us does, whatever ended it."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    if "attached" in sys.argv[2:]:
        threading.Thread(target=_leave_with_parent, daemon=True).start()
    if "profile" in sys.argv[2:]:
        _profile(CASES[sys.argv[1]])
    print(json.dumps(_measure(CASES[sys.argv[1]])))
