"""How long requests waited and readers stalled in a sweep: of each run the store keeps quantiles, pooled here over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from policies.api import Floats

from .plot_style import Drawing, as_png, legend, new_figure, own_look, wrapped
from .plots import rebuffer_cdf, ttft_cdf

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .timeline import Timeline

_PANELS = 4         # rows of panels in a figure: what a sheet of paper holds
_CURVES = ("ttft_s", "rebuffer_s")

_CAPTION = ("The share of completed requests that had their first token within so many seconds, and of readers whose stalls came "
            "to no more than that; further up and left is better. All seeds together, by 101 quantiles of each run.")


@dataclass(frozen=True, eq=False)
class Pooled:
    """Quantiles of several runs in place of their requests: each run weighs the same."""

    label: str
    told: Mapping[str, Floats]

    @property
    def summary(self) -> Mapping[str, Any]:
        return {}

    @property
    def timeline(self) -> Timeline | None:
        return None

    def columns(self) -> Mapping[str, npt.NDArray[Any]]:
        return {**self.told, "fate": np.full(len(self.told["ttft_s"]), "completed")}

    def token_times_s(self, id: int, /) -> Floats | None:
        return None

    def read_along(self, id: int, /) -> tuple[Floats, Floats] | None:
        return None


def stored(file: Path) -> dict[str, Mapping[str, Sequence[float]]]:
    """Quantiles by key of the run; what somebody else has left there is nobody's."""
    found: dict[str, Mapping[str, Sequence[float]]] = {}
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                curves = entry.get("curves") if isinstance(entry, dict) else None
                if isinstance(curves, dict) and all(_are_numbers(curves.get(name)) for name in _CURVES):
                    found[str(entry.get("key"))] = curves
    except (OSError, ValueError):
        return {}
    return found


def draw(curves: Mapping[str, Mapping[str, Sequence[float]]], groups: Mapping[str, Mapping[str, Sequence[str]]],
         labels: Sequence[str]) -> list[Drawing]:
    """A row of panels per group, a line per policy. groups: by name, and in it by policy, the keys of their runs."""
    made = {group: {label: pooled(label, [curves[key] for key in policies.get(label, ()) if key in curves]) for label in labels}
            for group, policies in groups.items()}
    names = [group for group, each in made.items() if any(len(one.told["ttft_s"]) for one in each.values())]
    many = -(-len(names) // max(-(-len(names) // _PANELS), 1))         # alike on all pages
    pages = [names[i : i + many] for i in range(0, len(names), max(many, 1))]
    with own_look():
        return [Drawing(f"curves-{i}", f"Waiting and stalling{f' ({i} of {len(pages)})' if len(pages) > 1 else ''}", _CAPTION,
                        as_png(_figure({name: made[name] for name in page}, labels))) for i, page in enumerate(pages, 1)]


def pooled(label: str, runs: Sequence[Mapping[str, Sequence[float]]]) -> Pooled:
    return Pooled(label, {name: np.array([value for run in runs for value in run[name]], dtype=float) for name in _CURVES})


def _figure(panels: Mapping[str, Mapping[str, Pooled]], labels: Sequence[str]) -> Figure:
    figure = new_figure(2.2 * len(panels) * (1 if len(panels) > 1 else 1.2) + 0.4, labels)
    grid = figure.subplots(len(panels), 2, squeeze=False)
    for (waits, stalls), (group, results) in zip(grid, panels.items()):
        ttft_cdf(waits, results)
        rebuffer_cdf(stalls, results)
        waits.set_xlabel("TTFT, s (log scale)")
        waits.set_title(wrapped(group, 70) + "\n", loc="left", fontweight="bold", parse_math=False)
    return legend(figure, labels)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)
