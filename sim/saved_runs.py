"""Results on disk, read back: what `tokenflow run`, `tokenflow compare` and `tokenflow-calibrate replay` have written."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.api import Bools, Floats
from traces import BadInput
from traces.pace import Pace, parse, reading_s, split

from .timeline import Timeline
from .token_buffer import read_along

RUN, REQUESTS, TIMELINE, COMPARISON, HOST = "run.json", "requests.csv", "timeline.csv", "compare.json", "host.json"
_LISTS = ("start_times", "ttfts", "itls")
_TEXTS = ("class", "fate", "reason", "consume_tps", "lost_fluency", "good")


@dataclass(frozen=True, eq=False)
class Saved:
    """One run of one policy: an `Outcome`."""

    folder: Path
    facts: Mapping[str, Any]                #: run.json
    requests: Mapping[str, list[str]]       #: requests.csv, by column
    timeline: Timeline | None
    named: str = ""                         #: its name in tables, where that is not the policy's

    @property
    def label(self) -> str:
        return self.named or str(self.facts["policy"])

    @property
    def summary(self) -> Mapping[str, Any]:
        return self.facts

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

    @cached_property
    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        """As `Result.columns`."""
        told: dict[str, npt.NDArray[Any]] = {}
        for name, cells in self.requests.items():
            told[name] = np.array(cells, object) if name in _TEXTS else self.column(name)
        if "consume_tps" in told:
            told["consume_tps"] = np.array([self._pace(cell) for cell in self.requests["consume_tps"]], object)
        return told

    def _pace(self, cell: str) -> float | str:
        try:
            pace = parse(cell)
            return cell if isinstance(pace, Pace) else pace
        except ValueError as error:
            raise BadInput("result", str(self.folder / REQUESTS), f"column consume_tps: {cell!r:.40} {error}") from None

    def columns(self) -> Mapping[str, npt.NDArray[Any]]:
        return self._columns

    @property
    def asked(self) -> Floats:
        """Arrivals, prompts and outputs: shape (3, n)."""
        return np.array([self.column(name) for name in ("arrival_s", "input_tokens", "output_tokens")])

    @property
    def keeps_tokens(self) -> bool:
        """Whether it has the time of each token."""
        return all(isinstance(self.facts.get(name), list) for name in _LISTS)

    def token_times_s(self, id: int) -> Floats | None:
        """Of the request in row `id`, ascending; None where they were not kept."""
        if not self.keeps_tokens:
            return None
        if not self._columns["delivered_tokens"][id] > 0:
            return np.empty(0)
        times_s: Floats = self._columns["first_token_s"][id] + np.append(0.0, np.cumsum(self.facts["itls"][id]))
        return times_s

    def read_along(self, id: int) -> tuple[Floats, Floats] | None:
        """When each token is taken up, shape (tokens,); from when to when its reader stalled, (m, 2)."""
        times_s = self.token_times_s(id)
        if times_s is None:
            return None
        tps, changes = split(self._columns["consume_tps"][id : id + 1])
        return read_along(times_s, reading_s(float(tps[0]), changes[0], len(times_s)))

    def all_token_times_s(self) -> Floats | None:
        """Of all tokens of all requests, ascending; None where they were not kept."""
        if not self.keeps_tokens:
            return None
        times = [times for id in range(len(self.requests["fate"])) if (times := self.token_times_s(id)) is not None]
        return np.sort(np.concatenate([np.empty(0), *times]))

    def check_numbers(self, keys: Sequence[str], there: bool = False) -> None:
        """BadInput where something else stands in place of a number; and, with `there`, where nothing stands at all."""
        path = str(self.folder / RUN)
        for key in keys:
            value = self.facts.get(key)
            if there and key not in self.facts:
                written = self.facts.get("tokenflow_lab", "an unknown version")
                raise BadInput("result", path, f"has no {key}: it was written by another version ({written}); run it again")
            if not (value is None or _is_number(value)):
                raise BadInput("result", path, f"{key}: {value!r:.40} is not a number")


def read_runs(folder: Path) -> dict[str, Saved]:
    """The runs in a folder, by policy: its own, or those of the folders in it."""
    if not folder.is_dir():
        raise BadInput("result", str(folder), "there is no such folder")
    if (folder / RUN).is_file():
        run = read_run(folder)
        return {run.label: run}
    found = [read_run(each.parent) for each in sorted(folder.glob(f"*/{RUN}"))]
    if not found:
        raise BadInput("result", str(folder), f"holds no {RUN}, nor do the folders in it")
    runs = {run.label: run for run in found}
    if len(runs) < len(found):
        raise BadInput("result", str(folder), "holds several runs of one policy; name each run's folder, or one folder a repeat")
    first = list(read_object(folder / COMPARISON).get("policies", {})) if (folder / COMPARISON).is_file() else []
    return {label: runs[label] for label in sorted(runs, key=lambda label: first.index(label) if label in first else len(first))}


def read_run(folder: Path) -> Saved:
    facts = read_object(folder / RUN)
    for key in ("policy", "duration", "mean_ttft_ms", "output_throughput"):
        if key not in facts:
            raise BadInput("result", str(folder / RUN), f"has no {key}: is it one of tokenflow?")
    requests = read_columns(folder / REQUESTS)
    if "fate" not in requests:
        raise BadInput("result", str(folder / REQUESTS), "has no column fate")
    _check_gaps(folder, facts, requests)
    timeline = folder / TIMELINE
    return Saved(folder, facts, requests, _timeline(timeline) if timeline.is_file() else None)


def _timeline(path: Path) -> Timeline:
    told = read_columns(path)
    try:
        return Timeline.of_columns({name: np.array([float(cell or "nan") for cell in cells]) for name, cells in told.items()})
    except KeyError as error:
        raise BadInput("result", str(path), f"has no column {error.args[0]}") from None
    except ValueError as error:
        raise BadInput("result", str(path), str(error)) from None


def _check_gaps(folder: Path, facts: Mapping[str, Any], requests: Mapping[str, list[str]]) -> None:
    """BadInput where vLLM's lists are not what requests.csv says."""
    gaps, path = facts.get("itls"), str(folder / RUN)
    if not isinstance(gaps, list):
        return
    if not all(isinstance(each, list) and all(map(_is_number, each)) for each in gaps):
        raise BadInput("result", path, f"itls: {gaps!r:.40} is not one list of numbers a request")
    delivered = requests.get("delivered_tokens", [])
    if len(gaps) != len(requests["fate"]) or any(str(max(len(each) + 1, 1)) != cell for each, cell in zip(gaps, delivered)
                                                 if cell not in ("", "0")):
        raise BadInput("result", path, f"itls: not the tokens of the requests in {REQUESTS}: the two are not of one run")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput("result", str(path), f"cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise BadInput("result", str(path), "is not a JSON object")
    return found


def read_columns(path: Path) -> dict[str, list[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise BadInput("result", str(path), f"cannot be read: {error}") from None
    if not header or any(len(row) != len(header) for row in rows):
        raise BadInput("result", str(path), "is empty, or was cut short")
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}
