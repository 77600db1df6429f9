"""What the scheduler class does beside carrying out plans."""

from __future__ import annotations

import inspect
import re
from types import ModuleType

import pytest
from cases import machine

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
