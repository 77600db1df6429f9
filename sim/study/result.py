"""A finished study as Python has it: tables and plots. Read from its directory, so that there is one way to have it.

    from sim import load_study, run_study
    study = run_study({"base": {"num_prompts": 80}, "axes": {"policy": ["vllm", "tokenflow"]}, "seeds": 5}, "my-study")
    study.summary, study.runs, study.paired       # pandas tables
    study.plot_pareto(); study.plot_metric("p99_ttft_ms")
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import floor, log10
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traces import BadInput

from . import store, tables
from .summary import CI

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


@dataclass(frozen=True)
class StudyResult:
    """The directory of a finished study."""

    directory: Path

    @cached_property
    def runs(self) -> DataFrame:
        """A row per run that came to its end: the study's axes, `seed`, `key`, and everything that run.json has."""
        return self._table(tables.RUNS)

    @cached_property
    def summary(self) -> DataFrame:
        """A row per combination: its name, the axes, `runs`, and of each metric its mean over seeds METRIC and half the width of
        the 95 % interval METRIC_ci95."""
        return self._table(tables.SUMMARY)

    @cached_property
    def paired(self) -> DataFrame:
        """A row per metric and combination that has a baseline: differences and ratios on the same seeds."""
        return self._table(tables.PAIRED)

    @cached_property
    def failures(self) -> DataFrame:
        """A row per run that came to no end: its key, its command line, and why."""
        return self._table(tables.FAILURES)

    @cached_property
    def curves(self) -> Mapping[str, Mapping[str, list[float]]]:
        """By key of the run: 0, 1, ..., 100 % quantiles of `ttft_s` and `rebuffer_s`, over its completed requests."""
        lines = (self.directory / store.RUNS).read_text().splitlines()[1:]
        return {entry["key"]: entry["curves"] for line in lines if "curves" in (entry := json.loads(line))}

    @property
    def name(self) -> str:
        from .study import read_study
        return read_study(self.directory / store.STUDY).name

    @property
    def axes(self) -> list[str]:
        """Columns that say what was varied."""
        columns = list(self.summary.columns)
        return columns[1:columns.index("runs")]

    @property
    def metrics(self) -> list[str]:
        return [name.removesuffix(CI) for name in self.summary.columns if name.endswith(CI)]

    def to_pandas(self) -> DataFrame:
        """`runs`, a copy of the caller's own."""
        return self.runs.copy()

    def plot_pareto(self, x: str = "p99_ttft_ms", y: str = "effective_throughput", ax: Axes | None = None) -> Axes:
        """Two metrics against each other, a point per combination with its intervals; the best compromises are joined."""
        from .plots import pareto
        return pareto(self, x, y, ax)

    def plot_metric(self, metric: str = "p99_ttft_ms", ax: Axes | None = None) -> Axes:
        """One metric of every combination with its interval: lines over an axis of numbers, else bars."""
        from .plots import bars_or_lines
        return bars_or_lines(self, metric, ax)

    def __repr__(self) -> str:
        return f"StudyResult({str(self.directory)!r}: {len(self.summary)} combinations, {len(self.runs)} runs)"

    def _repr_html_(self) -> str:
        from html import escape

        from .plots import MAIN, titled
        shown = [metric for metric in MAIN if metric in self.metrics]
        head = "".join(f"<th>{escape(text)}</th>" for text in ["combination", "runs", *(titled(metric)[0] for metric in shown)])
        body = "".join(
            f"<tr><th style='text-align:left'>{escape(str(row['combination']))}</th><td>{row['runs']}</td>"
            + "".join(f"<td>{_cell(row, metric)}</td>" for metric in shown) + "</tr>" for row in self.summary.to_dict("records"))
        failed = f"; {len(self.failures)} failed" if len(self.failures) else ""
        return (f"<p><b>{escape(self.name)}</b>: {len(self.summary)} combinations, {len(self.runs)} runs{failed}. Means over seeds "
                f"± half the 95 % interval.</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def _table(self, name: str) -> DataFrame:
        from pandas import DataFrame, read_csv
        file = self.directory / name
        if not file.is_file():
            return DataFrame()
        return read_csv(file, dtype={"seed": int, "key": str}, keep_default_na=False, na_values=[""], low_memory=False)


def load_study(directory: str | PathLike[str]) -> StudyResult:
    """The results that `tokenflow sweep` or `run_study` left in a directory. BadInput when there are none."""
    folder = Path(directory)
    for name in (store.STUDY, store.RUNS, tables.RUNS, tables.SUMMARY):
        if not (folder / name).is_file():
            raise BadInput("study", str(folder), f"holds no finished study: there is no {name}")
    return StudyResult(folder)


def _cell(row: Mapping[Any, Any], metric: str) -> str:
    from .plots import titled
    _, scale = titled(metric)
    mean, half = row[metric] * scale, row[metric + CI] * scale
    if mean != mean:
        return "-"
    places = max(0, 2 - floor(log10(abs(mean)))) if mean else 2
    return f"{mean:,.{places}f}" if half != half else f"{mean:,.{places}f} ± {half:,.{places}f}"
