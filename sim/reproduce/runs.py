"""The simulations that a reproduction needs: each done once, however many figures show it, and kept as soon as it is done.

A run is known by its content. Finished runs are lines of `runs.jsonl`, written one by one, so that what was done before a
kill is there for `--resume`; the first line says which code they came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from traces import Trace

from .. import ledger

Values = Mapping[str, Any]      #: what is kept of a run: names and numbers, as JSON has them

LEDGER = "runs.jsonl"


@dataclass(frozen=True)
class Run:
    """One simulation. Pairs are sorted by name, so that the same run is the same run."""

    workload: str                                       #: a name of `sim.workloads`
    policy: str                                         #: as `--policy` has it, fields in brackets
    seed: int
    requests: tuple[tuple[str, Any], ...] = ()          #: arguments of `traces.generate` in place of the workload's
    machine: tuple[tuple[str, Any], ...] = ()           #: arguments of `sim.build_machine` in place of the workload's
    consume_tps: float = 20.0                           #: of readers whose rate the trace does not give
    file: str = ""                                      #: requests from this BurstGPT file instead
    keep: tuple[str, ...] = ()                          #: series kept beside the summary, of `sim.reproduce.kept`

    @classmethod
    def of(cls, workload: str, policy: str, seed: int, requests: Mapping[str, Any] | None = None,
           machine: Mapping[str, Any] | None = None, **more: Any) -> Run:
        return cls(workload, policy, seed, tuple(sorted((requests or {}).items())), tuple(sorted((machine or {}).items())), **more)

    @cached_property
    def key(self) -> str:
        """The same for the same simulation, whatever is kept of it."""
        content = {name: value for name, value in asdict(self).items() if name != "keep"}
        if self.file:
            content["file"] = _digest(self.file)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def trace(self) -> Trace:
        from ..workloads import workload
        if self.file:
            from .segment import segment
            return segment(self.file, **dict(self.requests))
        return workload(self.workload).trace(self.seed, **dict(self.requests))


@cache
def _digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def merged(runs: Iterable[Run]) -> list[Run]:
    """Each simulation once, with everything that anyone wants kept of it."""
    once: dict[str, Run] = {}
    for run in runs:
        known = once.get(run.key)
        keep = tuple(sorted({*run.keep, *(known.keep if known else ())}))
        once[run.key] = Run(**{**vars_of(run), "keep": keep})
    return list(once.values())


def vars_of(run: Run) -> dict[str, Any]:
    return {name: getattr(run, name) for name in Run.__dataclass_fields__}


class Found:
    """What came of the runs."""

    def __init__(self, values: Mapping[str, Values]) -> None:
        self._values = values

    def __getitem__(self, run: Run) -> Values:
        return self._values[run.key]

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def failure(self, run: Run) -> str | None:
        """Why there is no result, if there is none: a policy that wedged, say."""
        failed = self[run].get("failed")
        return None if failed is None else str(failed)


class Ledger(ledger.Ledger):
    """The finished runs of one output directory."""

    def __init__(self, folder: Path, code: str, resume: bool) -> None:
        super().__init__(folder / LEDGER, {"code": code}, resume)

    def has(self, run: Run) -> bool:
        return run.key in self.done and set(run.keep) <= set(self.done[run.key]["keep"])

    def add(self, run: Run, values: Values, cpu_s: float) -> None:
        self.keep({"key": run.key, "run": asdict(run), "keep": list(run.keep), "values": values, "cpu_s": round(cpu_s, 3)})


Done = Callable[[int, int, str], None]      #: runs finished, runs in all, which one


def carry_out(runs: Iterable[Run], ledger: Ledger, jobs: int, done: Done | None = None) -> Found:
    """Do what is not yet in the ledger, `jobs` at a time, long ones first."""
    from ..jobs import each_done
    from .kept import simulated
    wanted = merged(runs)
    missing = sorted((run for run in wanted if not ledger.has(run)), key=_long, reverse=True)
    finished = len(wanted) - len(missing)
    for run, (values, cpu_s) in each_done(simulated, missing, jobs):
        ledger.add(run, values, cpu_s)
        finished += 1
        if done:
            done(finished, len(wanted), f"{run.workload} {run.policy}")
    return Found({run.key: ledger.done[run.key]["values"] for run in wanted})


def _long(run: Run) -> float:
    """A guess at how long it takes: what takes long should not be what is left at the end."""
    from ..workloads import workload
    asks = int(dict(run.requests).get("num_prompts", workload(run.workload).num_prompts))
    return asks * (20 if run.policy == "sglang-ratecap" else 4 if run.policy.startswith("andes") else 1)
