"""What the scheduler class does beside carrying out plans."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from cases import load, machine
from rotate import Rotate

pytestmark = pytest.mark.engine

HOOKS = {"_reserve_prefill_lookahead", "_handle_blocked_waiting_request", "_inflight_prefill_reserved_blocks"}
CALLED = {"add_request", "finish_requests", "schedule", "update_from_output"}
CHANGED = {"waiting", "max_num_scheduled_tokens", "scheduler_reserve_full_isl", "scheduler_config"}


def test_nothing_of_vllms_own_is_overridden_by_accident(fake: ModuleType) -> None:
    """Both classes are large, and a name used twice breaks what nobody looks at."""
    ours, base = fake.PlanScheduler, fake.Scheduler
    assert {name for name in vars(ours) if hasattr(base, name) and not name.startswith("__")} == HOOKS | CALLED | {"_abc_impl"}
    assigned = set(re.findall(r"self\.(\w+)[^=\n(]*[^=!<>]=[^=]", inspect.getsource(ours)))
    assert assigned & vars(fake.vllm_scheduler(base, machine(0, 500, "tight", "none"))).keys() <= CHANGED


def test_features_that_would_change_a_plan_are_refused(fake: ModuleType) -> None:
    with pytest.raises(ValueError, match="turn off a watermark"):
        fake.vllm_scheduler(fake.PlanScheduler, machine(0, 500, "tight", "none"), watermark=0.1)


@pytest.mark.parametrize("seed", [1, 7])
def test_aborted_requests_leave_the_others_alone(fake: ModuleType, seed: int) -> None:
    """At any time, in mid-step too: whoever is left gets all its tokens, and every block comes back."""
    asks, rng = load(seed, 60, 600, 200), np.random.default_rng(seed)
    on = replace(machine(seed, 800, "tight", "ample"), h2d_bytes_per_s=1e9, d2h_bytes_per_s=1e9)
    gone = rng.choice(len(asks), 25, replace=False).tolist()
    aborts = sorted((asks[id].arrival_s + float(rng.exponential(2.0)), id) for id in gone)
    engine = fake.FakeEngine(asks, Rotate(), on, aborts=aborts)
    recording = engine.run()
    assert engine.vllm.kv_cache_manager.block_pool.get_num_free_blocks() == on.kv_blocks
    assert not engine.vllm.streams
    assert not engine.vllm.named
    last = {id: tokens for _, batch, _ in recording.steps for id, tokens in batch.items()}
    assert set(range(len(asks))) - set(gone) <= last.keys()
    assert {"offload", "load"} <= {name for name, n in recording.tally().items() if n}
