"""A study as `vllm bench sweep serve` leaves one: a folder per combination, in it summary.json, a list with an object per run.

`vllm bench sweep plot DIR` and `plot_pareto DIR` find these by name, wherever under DIR they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from ..ledger import Entry
from ..saving import as_json, folder_of
from .plan import Plan, Run

NAME = "summary.json"


def files(plan: Plan, done: Mapping[str, Entry], root: str) -> dict[str, str]:
    """Their contents, by path; a combination whose runs all failed has none, as vLLM has it."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for run in plan.runs:
        if "facts" in done[run.key]:
            of = rows.setdefault(str(run.combination), [])
            of.append(row(run, done[run.key], len(of)))
    made: dict[str, str] = {}
    for combination, runs in rows.items():
        folder = next(name for n in count(1) if f"{root}/{(name := folder_of(combination, n))}/{NAME}" not in made)
        made[f"{root}/{folder}/{NAME}"] = "[\n" + ",\n".join(as_json(run).rstrip("\n") for run in runs) + "\n]\n"
    return made


def row(run: Run, entry: Entry, number: int) -> dict[str, Any]:
    """One run. What the study varies stands last and wins, as vLLM's overrides do; a burst has no request rate: of users, it would
    make infinitely many."""
    told = {name: value for name, value in entry["facts"].items() if not (name == "request_rate" and value == "inf")}
    varied = {name: value for name, value in run.combination.labels.items() if value is not None}
    return told | {"max_concurrent_requests": entry["max_concurrent_requests"], "tensor_parallel_size": 1, "run_number": number} | varied
