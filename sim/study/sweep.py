"""A study from its file to its directory."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import saving
from ..ledger import Entry
from . import tables
from .plan import Plan, plan
from .runner import Done, carry_out
from .store import finish, opened
from .study import read_study


def sweep(planned: Plan, folder: Path, jobs: int | None = None, resume: bool = False, backend: str = "loky",
          cluster: str | None = None, done: Done | None = None, command: Sequence[str] | None = None) -> list[Entry]:
    """Run what the directory does not hold yet, and write its tables; returns the runs that failed."""
    with opened(folder, planned, resume) as ledger:
        carry_out(planned, ledger, jobs, done, backend, cluster)
        made = tables.files(planned, ledger, saving.host_facts(command=command or sys.argv))
        finish(folder, made, tables.OBSOLETE)
    return [ledger.done[key] for key in planned.keys if "failed" in ledger.done[key]]


def run_study(study: str | Path | Mapping[str, Any], output_dir: str | Path, jobs: int | None = None, *, resume: bool = False,
              backend: str = "loky", cluster: str | None = None) -> Any:
    """Run a study: a YAML file's name, or a mapping as such a file holds. Its directory is new, empty, or with `resume` one that
    an earlier run of this study left. jobs: runs at a time, None: one per core. Returns a `sim.study.result.StudyResult`."""
    from .result import load_study
    sweep(plan(read_study(study)), Path(output_dir), jobs, resume, backend, cluster)
    return load_study(output_dir)
