"""A small copy of what `tokenflow-calibrate validate` has left, for a notebook: python notebooks/data/shrink.py VALIDATED COPY

Kept are run.json without its lists, requests.csv with four decimals, timeline.csv in at most 96 points, and the order of the
policies. Nothing else is: no host, no date, no command line, no path.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

POINTS = 96


def shrink(run: Path, copy: Path) -> None:
    copy.mkdir(parents=True)
    facts = json.loads((run / "run.json").read_text())
    facts = {key: value for key, value in facts.items() if not isinstance(value, list)}
    facts["trace"] = Path(str(facts["trace"])).name
    (copy / "run.json").write_text(json.dumps(facts, indent=1) + "\n")
    pd.read_csv(run / "requests.csv").round(4).to_csv(copy / "requests.csv", index=False)
    told = pd.read_csv(run / "timeline.csv")
    point = np.arange(len(told)) // -(-len(told) // POINTS)
    span_s = told["end_s"] - told["start_s"]
    tops = [name for name in told if name.startswith("max_")]
    counts = told.drop(columns=["start_s", "end_s", *tops])
    means = counts.mul(span_s, axis=0).groupby(point).sum().div(span_s.groupby(point).sum(), axis=0)
    times = told.groupby(point).agg(start_s=("start_s", "first"), end_s=("end_s", "last"))
    times.join(means).join(told.groupby(point)[tops].max()).round(3).to_csv(copy / "timeline.csv", index=False)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = map(Path, sys.argv[1:])
    found = sorted(source.glob("predicted/*/run.json")) + sorted(source.glob("measured-*/*/run.json"))
    if not found or target.exists():
        sys.exit(f"{source if not found else target}: {'holds no validated runs' if not found else 'is there already'}")
    for each in found:
        shrink(each.parent, target / each.parent.relative_to(source))
    order = json.loads((source / "predicted/compare.json").read_text())["policies"]
    (target / "predicted/compare.json").write_text(json.dumps({"policies": dict.fromkeys(order)}) + "\n")
