"""vLLM does otherwise than planned: it refuses blocks, now and then, to whoever asks. All is counted, nothing is lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import Ask, load, machine
from rotate import Rotate

from policies import POLICIES
from policies.api import Policy
from sim.machine import Machine

pytestmark = pytest.mark.engine


class Stingy:
    """In front of vLLM's allocate_slots: one call in so many finds no block. Whom vLLM then preempts itself is counted."""

    def __init__(self, vllm: Any, every: int, seed: int) -> None:
        self.rng, self.every, self.seen = np.random.default_rng(seed), every, Counter[str]()
        manager, self.vllm = vllm.kv_cache_manager, vllm
        self._allocate, self._preempt, self._leave = manager.allocate_slots, vllm._preempt_request, vllm._leave_gpu
        manager.allocate_slots, vllm._preempt_request, vllm._leave_gpu = self.allocate, self.preempt, self.leave
        self.planned = False

    def allocate(self, request: Any, *args: Any, **kw: Any) -> Any:
        if self.rng.integers(self.every) == 0:
            self.seen["refused, " + ("loading" if kw.get("delay_cache_blocks") else request.status.name)] += 1
            return None
        return self._allocate(request, *args, **kw)

    def preempt(self, *args: Any, **kw: Any) -> Any:
        self.seen["preempted by vLLM"] += not self.planned
        return self._preempt(*args, **kw)

    def leave(self, *args: Any) -> None:
        self.planned = True
        self._leave(*args)
        self.planned = False


def cases() -> list[tuple[Policy, list[Ask], Machine]]:
    """The pools hold every request alone, and vLLM's own preemptions leave nothing that a policy has not seen before."""
    made: list[tuple[Policy, list[Ask], Machine]] = []
    for seed in range(6):
        on = replace(machine(seed, 900, "tight", "ample"), h2d_bytes_per_s=2e9, d2h_bytes_per_s=2e9)
        made.append((Rotate(steps=12), load(seed, 40, 600, 200), on))
    made.append((POLICIES["sglang"](), load(1, 40, 400, 100), replace(machine(1, 900, "ample", "none"), max_step_tokens=16_384)))
    return made


def test_departures_are_counted_and_nothing_is_lost(fake: ModuleType) -> None:
    """Everybody gets all of its answer, out of KV that is its own; every block comes back on both tiers."""
    seen, departures, verified, aborted = Counter[str](), 0, 0, 0
    for seed, (policy, asks, on) in enumerate(cases()):
        engine = fake.FakeEngine(asks, policy, on, departs=True)
        stingy = Stingy(engine.vllm, every=150, seed=seed)
        engine.run()
        vllm, out = engine.vllm, engine.finished
        for id, ask in enumerate(asks):
            assert out.get(id) == ask.final_tokens or ask.gives_up_s < np.inf, f"{policy}: request {id}"
        assert vllm.fallbacks == 0
        assert vllm.departures <= stingy.seen.total()
        assert vllm.fidelity()["plan_fidelity"] == pytest.approx(1 - vllm.departures / vllm.steps)
        seen, departures, verified = seen + stingy.seen, departures + vllm.departures, verified + engine.model.verified
        aborted += sum(ask.gives_up_s < np.inf for ask in asks)
    assert departures > 80
    often = {what for what, n in seen.items() if n > 3}
    assert {"refused, RUNNING", "refused, loading", "preempted by vLLM"} <= often
    assert verified > 200
    assert aborted > 10
