"""`tokenflow demo`: a burst of requests under the policies worth telling apart, as a table, figures and a report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from traces import Trace

from . import cli_tables, plots, report, saving
from .cli_progress import Bar
from .result import Result
from .simulate import simulate
from .workloads import Workload, workload

POLICIES = ("sglang", "sglang-chunked", "vllm", "tokenflow", "sglang-ratecap")
WORKLOAD = "burst-80"


def show(seed: int = 0, target: Path | None = None) -> Path:
    """Run it, keep everything in a new directory, print the table and what there is to look at; returns the directory."""
    burst = workload(WORKLOAD)
    trace = burst.trace(seed)
    with saving.Draft(target, "demo") as draft:
        with Bar(wanted=True) as bar:
            results = {policy: _simulated(policy, burst, trace, seed, bar) for policy in POLICIES}
        saving.write_comparison(draft, results)
        draft.write("host.json", saving.as_json(saving.host_facts(command=["tokenflow", *sys.argv[1:]])))
        drawings = plots.draw(results)
        for drawing in drawings:
            draft.write(f"{drawing.name}.png", drawing.png)
        draft.write("report.html", report.page(results, drawings, commands(seed)))
        path = draft.publish()
    cli_tables.show(results)
    for name in (*(f"{drawing.name}.png" for drawing in drawings), "report.html"):
        print(path / name)
    return path


def commands(seed: int) -> Sequence[str]:
    """What gives all of it again, and what gives the same results with flags to change."""
    return (f"tokenflow demo --seed {seed}",
            f"tokenflow compare --workload {WORKLOAD} --seed {seed} --policies {','.join(POLICIES)} --save-timeline")


def _simulated(policy: str, burst: Workload, trace: Trace, seed: int, bar: Bar) -> Result:
    bar.begin(policy)
    return simulate(policy, trace, seed=seed, progress=bar, timeline=True, workload=burst.name, **burst.machine)
