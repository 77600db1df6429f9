"""Doing what a plan holds and the store does not: several runs at a time, each kept as it ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from warnings import catch_warnings, filterwarnings

from ..ledger import Ledger
from .clusters import workers
from .plan import Plan, Run
from .setup import command

Done = Callable[[int, int], None]       #: runs finished, runs in all


def missing(plan: Plan, ledger: Ledger) -> list[Run]:
    """Runs without a result, failed ones among them, each once; long ones first, so that none is left alone at the end."""
    once = {run.key: run for run in plan.runs if "facts" not in ledger.done.get(run.key, ())}
    return sorted(once.values(), key=_long, reverse=True)


def carry_out(plan: Plan, ledger: Ledger, jobs: int | None, done: Done | None = None, backend: str = "loky",
              cluster: str | None = None) -> None:
    """A run that fails is kept as failed, with its command line, and the others go on."""
    left, total = missing(plan, ledger), len(plan.keys)
    with workers(backend, cluster, jobs, os.cpu_count() or 1) as at_a_time:
        if not left:
            return
        from ..jobs import KILLED, each_done
        from .kept import Task, carried_out
        finished, folder = total - len(left), os.getcwd()
        if done:
            done(finished, total)
        tasks = [Task(run.key, run.options, run.trace, folder) for run in left]
        with catch_warnings(), closing(each_done(carried_out, tasks, at_a_time, lambda task: {"failed": KILLED})) as ended:
            filterwarnings("ignore", ".*tasks which were still being processed")        # joblib's, when we stop at a full disk
            for task, kept in ended:
                ledger.keep({"key": task.key, "command": command(task.options)} | kept)
                finished += 1
                if done:
                    done(finished, total)


def _long(run: Run) -> float:
    """A guess at how long it takes."""
    return float(run.trace.output_tokens.sum()) * (1 if run.options.policy in ("sglang", "vllm", "sglang-chunked") else 4)
