"""Fig. 14 and 15: requests queued and running over twenty minutes of BurstGPT."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ...intervals import estimate
from .. import pictures, setups
from ..claims import of_item
from ..item import Item, Picture, Told
from ..judging import Row, mean, over, reason, row
from ..runs import Found, Run
from ..setups import CONTROLS, OURS, WITHOUT_BOUNDS, How, Setup
from ..verdicts import FAILS, judge
from .comparison import table

_POLICIES = ("sglang", "andes", *OURS, *CONTROLS, *WITHOUT_BOUNDS.values())


def _runs(how: How) -> list[Run]:
    return [run for setup in setups.segments(how) for run in setup.runs(_POLICIES, how, ("residency",))]


def _judged(item: str, line: str, sign: int, how: How, found: Found) -> list[Row]:
    (claim,), rows = of_item(item), []
    for setup in setups.segments(how):
        def areas_of(policy: str, setup: Setup = setup) -> list[float]:
            return [found[setup.run(policy, seed)]["residency"][f"{line}_area"] for seed in how.seeds_of(setup)]
        controlled = {control: sum(areas_of(control)) for control in CONTROLS}
        for policy in OURS:
            for baseline in ("sglang", "andes"):
                areas = [areas_of(each) for each in (policy, baseline)]
                stalls = {"rebuffer_s": mean(setup, policy, "mean_rebuffer_s", how, found),
                          "baseline_rebuffer_s": mean(setup, baseline, "mean_rebuffer_s", how, found)}
                values = {"value": sum(areas[0]) / len(areas[0]), "baseline_value": sum(areas[1]) / len(areas[1]),
                          "to_controls": {control: over(sum(areas[0]), theirs) for control, theirs in controlled.items()}}
                pairs = [one / other for one, other in zip(*areas) if other]
                if not pairs:
                    rows.append(row(claim, FAILS, policy=policy, baseline=baseline, on=setup.name, why="nobody ever queues",
                                    **stalls,
                                    **values))
                    continue
                share = estimate(pairs)
                made = row(claim, judge(share, sign=sign), policy=policy, baseline=baseline, on=setup.name, ours=share, **stalls,
                           **values)
                rows.append(replace(made, why=reason(claim, made, setup, how, found)))
    return rows


def _tell(item: str, line: str, sign: int, how: How, found: Found) -> Told:
    used = setups.segments(how)
    panels: dict[str, dict[str, pictures.Line]] = {
        f"{line}, {setup.name}": {policy: (told["at_s"], told[line]) for policy in _POLICIES[:4]
                                  if (told := found[setup.run(policy, 1)]["residency"])} for setup in used}
    return Told(_judged(item, line, sign, how, found), [
        setups.segment_about(how), "Qwen2.5-32B on an H200, 0.9 of its memory, readers of 20 tokens/s. The values are areas under "
                                   "the "
        "curves, in request seconds; running means holding KV on the GPU."],
        [table(f"Requests {line}", used, _POLICIES, how, found)],
        [Picture(item, f"Requests {line} over time; first seed.", partial(pictures.lines, panels, "time, s"))])


ITEMS = (
    Item("fig14", "BurstGPT on Qwen2.5-32B: requests queued", 2, _runs, partial(_tell, "fig14", "queued", -1)),
    Item("fig15", "BurstGPT on Qwen2.5-32B: requests running", 2, _runs, partial(_tell, "fig15", "running", +1)),
)
