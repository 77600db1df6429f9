"""Everything that a finished study's directory holds beside the runs' own store."""

from __future__ import annotations

from collections.abc import Mapping

from .. import saving
from ..ledger import Ledger
from . import paired, store, summary, vllm_summary
from .plan import Plan

RUNS, SUMMARY, PAIRED, FAILURES = "runs.csv", "summary.csv", "paired.csv", "failures.csv"

#: what only some studies have
OBSOLETE = (FAILURES, PAIRED)


def files(plan: Plan, ledger: Ledger, host: Mapping[str, object]) -> dict[str, str | bytes]:
    """Contents by name: the same bytes for the same study, host.json left out, whatever it took to get there."""
    done = ledger.done
    made: dict[str, str | bytes] = {
        store.RUNS: ledger.ordered(plan.keys),
        RUNS: saving.as_csv(summary.of_runs(plan, done)),
        SUMMARY: saving.as_csv(summary.of_combinations(plan, done)),
        "host.json": saving.as_json(host),
        **vllm_summary.files(plan, done, store.VLLM),
    }
    for name, columns in ((PAIRED, paired.table(plan, done)), (FAILURES, summary.failures(plan, done))):
        if any(columns.values()):
            made[name] = saving.as_csv(columns)
    return made
