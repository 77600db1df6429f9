"""What steering costs: CPU time in vLLM's schedule() and update_from_output() with it and without, medians.

    python tests/engine/overhead.py

Both schedulers are vLLM's real ones, in this process, in turns, on a model that says 7; under a standing plan, everybody decodes.
CPU time of the thread, since schedulers wait for nothing: a busy machine spreads it less.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from cases import H200, Ask
from fake_engine import FakeEngine

from policies import POLICIES
from policies.api import Plan, View, check_plan
from sim.machine import Machine

BLOCK = 16              # tokens; in so many steps every request fills one, and a cycle costs what any other does
CYCLES = 60


class Stands:
    """Prefills whoever came, then lets all decode, written through, and is not asked again."""

    def __init__(self, write_through: bool) -> None:
        self.write_through = write_through

    def plan(self, view: View) -> Plan:
        new = view.remaining_tokens > 1
        prefill = tuple(zip(view.id[new].tolist(), view.remaining_tokens[new].tolist()))
        ready = view.id[~new].copy()
        return Plan(decode=ready, prefill=prefill, store=ready.copy() if self.write_through else view.id[:0])


def engine(requests: int, policy: Any) -> FakeEngine:
    asks = [Ask(0.0, 64 + i % BLOCK, 4000, 20.0, 1.0, np.nan, np.nan, True) for i in range(requests)]   # blocks fill in turn
    on = Machine(H200, requests * 300, requests * 300, BLOCK, max_seqs=512, max_step_tokens=65_536, write_whole_blocks=True)
    made = FakeEngine(asks, policy, on)
    made.env.process(made._clients())
    made.env.run(until=1e-9)
    return made


def steps(made: FakeEngine, n: int) -> list[float]:
    """Seconds in vLLM's scheduler, of each of so many steps."""
    vllm, took_s, cpu_s = made.vllm, [], time.thread_time
    for _ in range(n):
        start_s = cpu_s()
        out = vllm.schedule()
        scheduled_s = cpu_s() - start_s
        if made.steered:
            made.host.begin(out)
        made.env.run(until=made.env.now + 0.02)
        answer = made._output(out.num_scheduled_tokens)
        start_s = cpu_s()
        vllm.update_from_output(out, answer)
        took_s.append(scheduled_s + cpu_s() - start_s)
    return took_s


def standing(requests: int, write_through: bool) -> None:
    stock, steered = engine(requests, None), engine(requests, Stands(write_through))
    for made in (stock, steered):
        steps(made, 2 * BLOCK)
    gc.freeze()                 # as vLLM's engine core does once it is up
    decisions = steered.vllm.count.decisions
    cycles = np.array([[steps(made, BLOCK) for made in (stock, steered)] for _ in range(CYCLES)]) * 1e6
    assert steered.vllm.count.decisions == decisions, "the plan did not stand"
    assert len(steered.vllm.decoding) == requests
    alone, ours = np.median(cycles, axis=0).mean(axis=1)        # each step of the cycle by itself: they differ
    what = "written through" if write_through else "not written through"
    print(f"{requests:>4} running, {what}: {alone:7.0f} us a step, steered {ours:7.0f} us, {ours / alone:.2f} times")


def decision(name: str, requests: int) -> None:
    """A full decision: the View, the policy, the check."""
    made = engine(requests, POLICIES[name]())
    vllm, took, parts = made.vllm, [], []
    for _ in range(200):
        steps(made, 1)
        now_s = vllm.clock()
        start_s = time.perf_counter()
        view = vllm.view(now_s)
        viewed_s = time.perf_counter()
        plan = vllm.planner.plan(view)
        planned_s = time.perf_counter()
        check_plan(view, plan)
        end_s = time.perf_counter()
        took.append(end_s - start_s)
        parts.append((viewed_s - start_s, planned_s - viewed_s, end_s - planned_s))
    view_ms, plan_ms, check_ms = np.median(parts, axis=0) * 1e3
    print(f"{name} decides among {requests}: {np.median(took) * 1e3:.2f} ms (view {view_ms:.2f}, plan {plan_ms:.2f}, "
          f"check {check_ms:.2f})")


if __name__ == "__main__":
    for n in (8, 64, 256):
        standing(n, write_through=False)
        standing(n, write_through=True)
    decision("tokenflow", 400)
