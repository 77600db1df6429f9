"""Fig. 18, token timelines, and Fig. 19, readers of two rates."""

from __future__ import annotations

from functools import partial
from typing import Any

from ...intervals import estimate
from .. import pictures, setups
from ..claims import of_item
from ..item import Item, Picture, Table, Told
from ..judging import Row, mean, row
from ..runs import Found, Run
from ..setups import OURS, POLICIES, How, Setup
from ..verdicts import DIRECTION, FAILS, HOLDS
from .comparison import table

_SHOWN = ("sglang", "andes", "tokenflow", "tokenflow-paper", "sglang-ratecap")
_AT_RATE = 0.99     # of its own rate: as good as


def _b(how: How) -> Setup:
    return setups.table1("4090-b", how)


def _streams(how: How) -> list[Run]:
    return [*_b(how).runs(_SHOWN, how), *(_b(how).run(policy, 1, ("streams",)) for policy in _SHOWN)]


def _tell_streams(how: How, found: Found) -> Told:
    setup, (claim,), rows = _b(how), of_item("fig18"), []
    for policy in OURS:
        stalled, theirs = (mean(setup, each, "mean_rebuffer_s", how, found) or 0.0 for each in (policy, "sglang"))
        who = mean(setup, policy, "stalled_share", how, found) or 0.0
        verdict = HOLDS if not who else DIRECTION if stalled < theirs else FAILS
        rows.append(row(claim, verdict, policy=policy, baseline="sglang", on=setup.name, value=who, rebuffer_s=stalled,
                        baseline_value=mean(setup, "sglang", "stalled_share", how, found), baseline_rebuffer_s=theirs,
                        why=f"{who:.1%} of readers ever stall".replace("%", " %")))
    told = {policy: found[setup.run(policy, 1)]["streams"] for policy in _SHOWN}
    return Told(rows, ["The burst of 80 on the RTX 4090, first seed: an early, a middle and the last request."],
                [table("Token timelines", [setup], _SHOWN, how, found)],
                [Picture("fig18", "Tokens generated and tokens read; between the lines lies the buffer.", partial(pictures.streams,
                                                                                                                  told))])


def _mixed(how: How) -> Setup:
    return setups.table1("4090-b", how, requests={"consume_rate": "0.4:15,0.6:20"}, name="4090-b, 40 % at 15/s, 60 % at 20/s")


def _classes(how: How) -> list[Run]:
    return _mixed(how).runs(POLICIES, how, ("classes",))


def _tell_classes(how: How, found: Found) -> Told:
    setup, (claim,) = _mixed(how), of_item("fig19")
    rows: list[Row] = []
    lines: list[list[Any]] = []
    bars: dict[str, dict[str, Any]] = {}
    for policy in POLICIES:
        told = [found[run]["classes"] for run in setup.runs((policy,), how)]
        shares = []
        for i, tps in enumerate(one["tps"] for one in told[0]):
            def over_seeds(key: str, i: int = i, told: list[Any] = told) -> float:
                return float(sum(seed[i][key] for seed in told) / len(told))
            lines.append([policy, tps, *(over_seeds(key) for key in ("generated_tps", "slowest_tps", "read_tps", "mean_ttft_s",
                                                                     "mean_rebuffer_s", "stalled_share"))])
            bars.setdefault(f"{tps:g} tokens/s", {})[policy] = estimate([seed[i]["read_tps"] for seed in told])
            shares.append(estimate([seed[i]["read_tps"] / tps for seed in told]))
        if policy in OURS:
            worst = min(shares, key=lambda share: share.mean)
            rows.append(row(claim, HOLDS if worst.mean >= _AT_RATE else FAILS, policy=policy, on=setup.name, ours=worst,
                            rebuffer_s=mean(setup, policy, "mean_rebuffer_s", how, found),
                            why="the slower class's reading speed, stalls included, over its rate"))
    columns = ("policy", "reads, tokens/s", "generated, mean tokens/s", "slowest", "read, tokens/s", "mean TTFT, s",
               "rebuffering, mean s",
               "stalled, share")
    return Told(rows, ["The burst of 80 on the RTX 4090."], [Table("Two classes of readers", columns, lines)],
                [Picture("fig19", "Reading speed of each class, stalls included.", partial(pictures.bars,
                                                                                           {"tokens/s read": bars}))])


ITEMS = (
    Item("fig18", "Token timelines", 0.2, _streams, _tell_streams),
    Item("fig19", "Readers of two rates: 40 % at 15 tokens/s, 60 % at 20", 0.2, _classes, _tell_classes),
)
