"""`tokenflow-calibrate compare`: what was simulated beside what was measured, as a table, compare.json and a page."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from sim.saving import Draft, as_json

from .compare_page import page
from .compare_plots import draw
from .compare_text import text
from .comparison import Comparison, comparison, facts
from .overview_plot import overview

PAGE, FACTS, OVERVIEW = "compare.html", "compare.json", "overview.png"


def compare(simulated: Path, measured: Sequence[Path], output: Path | None) -> None:
    """Print it, and keep it where a folder is named."""
    with nullcontext() if output is None else Draft(output, "compare") as draft:
        found = comparison(simulated, measured)
        if draft is not None:
            for name, content in files(found).items():
                draft.write(name, content)
            draft.publish()
    print(text(found))
    if output is not None:
        print(output / PAGE)


def files(found: Comparison) -> dict[str, str | bytes]:
    """By name."""
    first = overview(found)
    return {FACTS: as_json(facts(found)), PAGE: page(found, [first, *draw(found)]), OVERVIEW: first.png}
