"""Whatever the policy: everybody is served in the end, under overload as well, and a load that can be served starves nobody."""

from __future__ import annotations

import pytest
from builders import Ask, machine, run_engine

from policies import POLICIES
from sim import simulate
from sim.records import Fate
from sim.workloads import WORKLOADS, workload


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", [name for name in WORKLOADS if name.startswith("table1-")])
def test_everybody_finishes_on_every_table_1_workload(policy: str, name: str) -> None:
    """The whole burst, or the first minute of a Poisson run."""
    named = workload(name)
    trace = named.trace(seed=1, num_prompts=min(named.num_prompts, int(60 * (named.request_rate or 10))))
    said = simulate(policy, trace, **named.machine).summary
    assert said["completed"] == said["requests"]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_steady_load_that_can_be_served_starves_nobody(policy: str) -> None:
    """Memory for eight, six of whom come a second or so apart and stay for two: the one with a long prompt is not put off."""
    asks = [Ask(0.0, 120, 200, 20.0), Ask(0.01, 1400, 100, 20.0), *(Ask(0.3 * i, 120, 200, 20.0) for i in range(1, 200))]
    ran = run_engine(asks, POLICIES[policy](), machine(kv_blocks=160, max_step_tokens=1 << 20))
    assert (ran.records.fate == Fate.COMPLETED).all()
    assert ran.records.first_s[1] < 5.0
    assert ran.records.token_times_s(1)[-1] < 20.0
