"""Whatever the policy: everybody is served in the end, under overload as well, and a load that can be served starves nobody."""

from __future__ import annotations

import pytest
from builders import Ask, machine, run_engine

from policies import POLICIES
from sim import simulate
from sim.records import Fate
from sim.workloads import WORKLOADS, workload


@pytest.mark.parametrize("policy", ["andes", "andes-code", "fastserve", "vtc"])
@pytest.mark.parametrize("name", [name for name in WORKLOADS if name.startswith("table1-")])
def test_everybody_finishes_on_every_table_1_workload(policy: str, name: str) -> None:
    """Its first 150 requests: more than memory holds."""
    named = workload(name)
    trace = named.trace(seed=1, num_prompts=min(named.num_prompts, 150))
    said = simulate(policy, trace, **named.machine).summary
    assert said["completed"] == said["requests"]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_steady_load_that_can_be_served_starves_nobody(policy: str) -> None:
    """About five of 320 tokens at a time in memory for 2560: the one with a prompt of 1400 among them is not put off."""
    asks = [Ask(0.0, 120, 200, 20.0), Ask(0.01, 1400, 100, 20.0), *(Ask(0.3 * i, 120, 200, 20.0) for i in range(1, 200))]
    ran = run_engine(asks, POLICIES[policy](), machine(kv_blocks=160, max_step_tokens=1 << 20))
    assert (ran.records.fate == Fate.COMPLETED).all()
    assert ran.records.first_s[1] < 5.0
    assert ran.records.token_times_s(1)[-1] < 20.0
