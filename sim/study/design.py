"""The combinations of a study: one of each axis and of the list, each sample of the hypercube."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import exp, floor, log
from typing import Any, get_type_hints

import numpy as np

from traces import BadInput

from ..cli_options import RunOptions
from .setup import setup
from .study import Choice, Flags, Hypercube, Study

#: columns whose values say by themselves what they are
_SELF_TOLD = ("policy", "hardware", "model", "workload", "arrival", "trace")

_ARGUMENT = "policy_arg."


@dataclass(frozen=True)
class Combination:
    """Everything about a run but its seed."""

    labels: Mapping[str, Any]       #: what distinguishes it, by column of the study's tables
    flags: Flags

    def __str__(self) -> str:
        return shown(self.labels, self.flags) or "base"

    def options(self, where: str, seed: int) -> RunOptions:
        """Its flags as `tokenflow run` has them."""
        arguments = {name.removeprefix(_ARGUMENT): value for name, value in self.flags.items() if name.startswith(_ARGUMENT)}
        plain = {name: value for name, value in self.flags.items() if not name.startswith(_ARGUMENT)}
        return setup(where, plain | ({"policy_arg": arguments} if arguments else {}) | {"seed": seed})


def shown(labels: Mapping[str, Any], flags: Flags) -> str:
    """Labels in one line; a number, or the value of a flag that few know by its values, with its name."""
    return " · ".join(str(label) if name in _SELF_TOLD or (isinstance(label, str) and name not in flags) else f"{name}={label}"
                      for name, label in labels.items() if label is not None)


def combinations(study: Study) -> list[Combination]:
    """In the study's order, the last axis fastest."""
    parts: list[tuple[Choice, ...]] = [*study.parts, *([tuple(samples(study.hypercube))] if study.hypercube else [])]
    found = []
    for chosen in product(*parts):
        labels: dict[str, Any] = {}
        flags = dict(study.base)
        for choice in chosen:
            labels |= choice.labels
            flags |= choice.flags
        found.append(Combination(labels, flags))
    names = [str(combination) for combination in found]
    if twins := {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set():
        apart = "take fewer samples, or wider ranges" if study.hypercube else "name their labels apart"
        raise BadInput(study.where, "latin_hypercube" if study.hypercube else "axes", (
            f"several combinations are called {sorted(twins)[0]}; {apart}"))
    return found


def samples(cube: Hypercube) -> Iterator[Choice]:
    """Each range in as many equal parts as there are samples, one sample in each of them. Four digits; whole numbers where the
    flag takes these, and of an argument of the policy where both ends are."""
    draw, hints = np.random.default_rng(cube.seed), get_type_hints(RunOptions)
    columns = {}
    for name, (low, high, by_log) in cube.ranges.items():
        share = (draw.permutation(cube.samples) + draw.random(cube.samples)) / cube.samples
        whole = hints.get(name) in (int, int | None) if not name.startswith("policy_arg.") else isinstance(low + high, int)
        columns[name] = [_within(low, high, by_log, whole, float(u)) for u in share]
    for values in zip(*columns.values()):
        flags = dict(zip(columns, values))
        yield Choice(flags, dict(flags))


def _within(low: float, high: float, by_log: bool, whole: bool, share: float) -> float:
    if whole:
        ends = (low, high + 1)
        value = exp(log(ends[0]) + share * (log(ends[1]) - log(ends[0]))) if by_log else low + share * (high + 1 - low)
        return int(min(floor(value), high))
    value = exp(log(low) + share * (log(high) - log(low))) if by_log else low + share * (high - low)
    return min(max(float(f"{value:.4g}"), low), high)
