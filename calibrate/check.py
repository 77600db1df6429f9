"""A profile against measured steps: how far its latency model is off, by phase and region."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from sim.hardware import Hardware, load_hardware, step_times
from sim.latency import LatencyModel
from traces import BadInput

from .fit_report import error_lines, wrapped
from .regions import Errors, by_region, failures
from .solver import Floats
from .tables import StepTable, read_steps


@dataclass(frozen=True)
class Check:
    """A latency model beside a table. Shown by print() and in a notebook."""

    table: StepTable
    latency: LatencyModel
    heading: str
    status: str         #: of the step times
    note: str           #: on host time

    @cached_property
    def predicted_s(self) -> Floats:
        return np.array([self.latency.step_s(*work) for work in self.table.work])

    @property
    def relative(self) -> Floats:
        """model / measured - 1 of each row."""
        relative: Floats = self.predicted_s / self.table.seconds - 1
        return relative

    @property
    def errors(self) -> dict[str, Errors]:
        """By phase and region."""
        return by_region(self.table, self.relative)

    def __str__(self) -> str:
        lines = [self.heading, *wrapped(f"{self.status}; {self.note}"), *wrapped(f"against {self.table.source}"), ""]
        lines += [*error_lines(self.errors, "model / measured - 1"), "", "where it fails"]
        lines += [part for line in failures(self.table, self.relative) for part in wrapped(line)]
        return "\n".join(lines) + "\n"

    def _repr_html_(self) -> str:
        from html import escape
        return f"<pre>{escape(str(self))}</pre>"


def check(profile: str | Path | Hardware, table: str | Path | StepTable, model: str | Path | None = None, *,
          whole_steps: bool | None = None) -> Check:
    """The profile's model beside the rows of a table or of samples.

    `model`: by default the profile's only one. `whole_steps`: the latencies hold host time; by default they do where the table
    has timed it.
    """
    hardware = profile if isinstance(profile, Hardware) else load_hardware(profile)
    rows = table if isinstance(table, StepTable) else read_steps(table)
    chosen = model_of(hardware, model)
    times = step_times(hardware, chosen)[1]
    whole = rows.host_s is not None or "whole steps" in times.status if whole_steps is None else whole_steps
    host_s = hardware.host_s.value if whole else 0.0
    note = f"host time of {host_s * 1e3:g} ms a step counted in" if whole else "steps taken as sums of kernels, without host time"
    return Check(rows, times.latency.with_host(host_s), f"{chosen} on {hardware.name}", times.status, note)


def model_of(hardware: Hardware, model: str | Path | None) -> str | Path:
    """The model asked for, or the only one there is."""
    if model is not None:
        return model
    if len(hardware.models) != 1:
        raise BadInput("--model", "(not given)", f"{hardware.name} has {', '.join(hardware.models)}: say which")
    return next(iter(hardware.models))
