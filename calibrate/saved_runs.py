"""Results on disk, read back: what `tokenflow run`, `tokenflow compare` and `tokenflow-calibrate replay` have written."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from policies.api import Bools, Floats
from traces import BadInput

from .agreement import METRICS

FIDELITY = ("plan_fidelity", "departures", "fallbacks")     #: how far plans were carried out
RUN, REQUESTS, TIMELINE, COMPARISON = "run.json", "requests.csv", "timeline.csv", "compare.json"
_LISTS = ("start_times", "ttfts", "itls")


@dataclass(frozen=True, eq=False)
class Saved:
    """One run of one policy."""

    folder: Path
    facts: Mapping[str, Any]                #: run.json
    requests: Mapping[str, list[str]]       #: requests.csv, by column
    timeline: Mapping[str, Floats] | None

    @property
    def label(self) -> str:
        return str(self.facts["policy"])

    @property
    def measured(self) -> bool:
        """On a real engine."""
        return "engine" in self.facts

    @cached_property
    def completed(self) -> Bools:
        return np.array([fate == "completed" for fate in self.requests["fate"]])

    def column(self, name: str) -> Floats:
        """A column of numbers; NaN where a cell is empty."""
        if name not in self.requests:
            raise BadInput("result", str(self.folder / REQUESTS), f"has no column {name}")
        try:
            return np.array([float(cell) if cell else np.nan for cell in self.requests[name]])
        except ValueError as error:
            raise BadInput("result", str(self.folder / REQUESTS), f"column {name}: {error}") from None

    @property
    def asked(self) -> Floats:
        """Arrivals, prompts and outputs: shape (3, n)."""
        return np.array([self.column(name) for name in ("arrival_s", "input_tokens", "output_tokens")])

    def token_times_s(self) -> Floats | None:
        """Of all tokens of all requests, ascending; None where they were not kept."""
        if not all(isinstance(self.facts.get(name), list) for name in _LISTS):
            return None
        times = [np.empty(0)]
        for first, gaps, tokens in zip(self.column("first_token_s"), self.facts["itls"], self.column("delivered_tokens")):
            if tokens > 0:
                times.append(first + np.append(0.0, np.cumsum(gaps)))
        return np.sort(np.concatenate(times))


def read_runs(folder: Path) -> dict[str, Saved]:
    """The runs in a folder, by policy: its own, or those of the folders in it."""
    if not folder.is_dir():
        raise BadInput("result", str(folder), "there is no such folder")
    if (folder / RUN).is_file():
        run = _read(folder)
        return {run.label: run}
    found = [_read(each.parent) for each in sorted(folder.glob(f"*/{RUN}"))]
    if not found:
        raise BadInput("result", str(folder), f"holds no {RUN}, nor do the folders in it")
    runs = {run.label: run for run in found}
    if len(runs) < len(found):
        raise BadInput("result", str(folder), "holds several runs of one policy; name each run's folder, or one folder a repeat")
    first = list(_object(folder / COMPARISON).get("policies", {})) if (folder / COMPARISON).is_file() else []
    return {label: runs[label] for label in sorted(runs, key=lambda label: first.index(label) if label in first else len(first))}


def _read(folder: Path) -> Saved:
    facts = _object(folder / RUN)
    for key in ("policy", "duration", "mean_ttft_ms", "output_throughput"):
        if key not in facts:
            raise BadInput("result", str(folder / RUN), f"has no {key}: is it one of tokenflow?")
    _check_numbers(folder / RUN, facts)
    requests = _columns(folder / REQUESTS)
    if "fate" not in requests:
        raise BadInput("result", str(folder / REQUESTS), "has no column fate")
    timeline = folder / TIMELINE
    if not timeline.is_file():
        return Saved(folder, facts, requests, None)
    try:
        told = {name: np.array([float(cell or "nan") for cell in cells]) for name, cells in _columns(timeline).items()}
    except ValueError as error:
        raise BadInput("result", str(timeline), str(error)) from None
    return Saved(folder, facts, requests, told)


def _check_numbers(path: Path, facts: Mapping[str, Any]) -> None:
    """BadInput where something else stands in place of a number."""
    for key in (*(metric.key for metric in METRICS), *FIDELITY):
        value = facts.get(key)
        if not (value is None or _is_number(value)):
            raise BadInput("result", str(path), f"{key}: {value!r:.40} is not a number")
    gaps = facts.get("itls")
    if isinstance(gaps, list) and not all(isinstance(each, list) and all(map(_is_number, each)) for each in gaps):
        raise BadInput("result", str(path), f"itls: {gaps!r:.40} is not one list of numbers a request")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput("result", str(path), f"cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise BadInput("result", str(path), "is not a JSON object")
    return found


def _columns(path: Path) -> dict[str, list[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, ValueError) as error:
        raise BadInput("result", str(path), f"cannot be read: {error}") from None
    if not header or any(len(row) != len(header) for row in rows):
        raise BadInput("result", str(path), "is empty, or was cut short")
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}
