"""How wrong predicted step times are, and where: |model / measured - 1| by phase and by region of the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .solver import Bools, Floats
from .tables import StepTable

KNEE = "128 to 384 tokens a step"

#: where such models are known to fail, and what to look at
REGIONS: dict[str, Callable[[StepTable], Bools]] = {
    KNEE: lambda table: (table.work[:, 0] >= 128) & (table.work[:, 0] <= 384),
    "decode, up to 8 requests": lambda table: (table.phase == "decode") & (table.batch <= 8),
    "decode, 64 or more, context <= 512": lambda table: (table.phase == "decode") & (table.batch >= 64) & (table.each <= 512),
    "contexts of 100,000 tokens or more": lambda table: table.work[:, 1] >= 100_000,
    "more than 4,096 tokens a step": lambda table: table.work[:, 0] > 4096,
}

_WHY = {KNEE: "matrix products go from reading weights to computing, in waves: times jump where the model is smooth"}
_FEW = 3            # rows of a region that say nothing
_WORSE = 1.25       # times the error of all rows


@dataclass(frozen=True)
class Errors:
    """Of predictions, in percent of what was measured."""

    rows: int
    mape: float
    bias: float         #: mean of model / measured - 1: above zero is too slow
    p90: float
    max: float

    @classmethod
    def of(cls, relative: Floats) -> Errors:
        size = 100 * np.abs(relative)
        return cls(len(size), float(size.mean()), float(100 * relative.mean()), float(np.percentile(size, 90)), float(size.max()))


def by_region(table: StepTable, relative: Floats) -> dict[str, Errors]:
    """Errors of all rows, of each phase, and of each region that has rows. `relative`: model / measured - 1."""
    masks = {"all": np.ones(len(table), dtype=bool)}
    masks |= {str(phase): table.phase == phase for phase in dict.fromkeys(table.phase.tolist())}
    masks |= {name: inside(table) for name, inside in REGIONS.items()}
    return {name: Errors.of(relative[mask]) for name, mask in masks.items() if mask.any()}


def failures(table: StepTable, relative: Floats) -> list[str]:
    """Where it fails, in words: regions clearly worse than the whole, worst first, and the worst rows."""
    found = by_region(table, relative)
    whole = found.pop("all")
    worse = [name for name, errors in found.items() if errors.rows >= _FEW and errors.mape > _WORSE * whole.mape]
    said = []
    for name in sorted(worse, key=lambda name: -found[name].mape):
        errors, why = found[name], f"; {_WHY[name]}" if name in _WHY else ""
        said.append(f"{name}: {errors.mape:.1f} % (bias {errors.bias:+.1f}, up to {errors.max:.1f}){why}")
    rows = np.argsort(-np.abs(relative), kind="stable")[:3]
    said.append("worst rows: " + ", ".join(f"{table.row(int(row))} {100 * relative[row]:+.1f} %" for row in rows))
    return said
