"""Why there is something to gain: Fig. 1 and 2, SGLang alone."""

from __future__ import annotations

from functools import partial

from ...intervals import estimate
from .. import pictures, setups
from ..claims import of_item
from ..item import Item, Picture, Told
from ..judging import mean, means, row
from ..runs import Found, Run
from ..setups import How, Setup
from ..verdicts import FAILS, HOLDS, at_least
from .comparison import table

_PATIENCE_MS = 1300.0
_PEAK_S = 20.0


def _a(how: How) -> Setup:
    return setups.table1("h200-a", how)


def _b(how: How) -> Setup:
    return setups.table1("4090-b", how)


def _ahead_runs(how: How) -> list[Run]:
    return [*_b(how).runs(("sglang",), how), *(_b(how).run(policy, 1, ("streams",)) for policy in ("sglang", "tokenflow"))]


def _ahead(how: How, found: Found) -> Told:
    setup, (claim,) = _b(how), of_item("fig1")
    speed = estimate([1000.0 / tpot / setup.consume_tps for tpot in means(setup, "sglang", "median_tpot_ms", how, found)])
    last = mean(setup, "sglang", "p99_ttft_ms", how, found)
    assert last is not None
    holds = (speed.low if speed.low is not None else speed.mean) > 1 and last > _PATIENCE_MS
    why = f"half are written to x{speed.mean:.2f} as fast as they read or faster, while P99 TTFT is {last / 1000:.1f} s"
    told = {policy: found[setup.run(policy, 1)]["streams"] for policy in ("sglang", "tokenflow")}
    return Told([row(claim, HOLDS if holds else FAILS, policy="sglang", on=setup.name, ours=speed, why=why)],
                ["The paper's Fig. 1 tells the idea; ours shows it on the burst of 80 on the RTX 4090, first seed."], [],
                [Picture("fig1", "Tokens generated and read, of an early, a middle and the last request of the burst.",
                         partial(pictures.streams, told))])


def _peak_runs(how: How) -> list[Run]:
    return _a(how).runs(("sglang",), how, ("waits", "residency"))


def _peak(how: How, found: Found) -> Told:
    setup, (peak, active) = _a(how), of_item("fig2")
    highest = estimate([value / 1000 for value in means(setup, "sglang", "max_ttft_ms", how, found)])
    speed = estimate([1000.0 / tpot for tpot in means(setup, "sglang", "median_tpot_ms", how, found)])
    assert active.published is not None
    near = abs(speed.mean / active.published - 1) <= 0.2
    base = {"policy": "sglang", "on": setup.name, "rebuffer_s": mean(setup, "sglang", "mean_rebuffer_s", how, found)}
    why = "" if near else (f"{speed.mean:.0f} tokens/s: the paper does not say which burst and model this was; the KV pool "
                           f"decides how "
                           "many decode together, and with it the speed of each")
    rows = [row(peak, at_least(highest, _PEAK_S), ours=highest, unit="s", **base),
            row(active, HOLDS if near else FAILS, ours=speed, unit="tokens/s", why=why, **base)]
    first = found[setup.run("sglang", 1)]
    waits, over = first["waits"], first["residency"]
    panels: dict[str, dict[str, pictures.Line]] = {
        "TTFT of the requests in order of arrival, s": {"sglang": (waits["id"], waits["ttft_s"])},
        "speed at which each is written to, tokens/s": {"sglang": (waits["id"], waits["generated_tps"])}}
    over_time: dict[str, dict[str, pictures.Line]] = {"requests over time": {
        name: (over["at_s"], over[name]) for name in ("queued", "running")}}
    return Told(rows, ["The burst of 400 of Table 1 (H200, Llama3-8B, 0.3 of memory); the paper does not say which burst its Fig. "
                       "2 shows."],
                [table("SGLang in a burst on the H200", [setup], ("sglang",), how, found)],
                [Picture("fig2", "First seed.", partial(pictures.lines, panels, "request, in order of arrival")),
                 Picture("fig2-over-time", "First seed.", partial(pictures.lines, over_time, "time, s"))])


ITEMS = (
    Item("fig1", "Some readers far ahead, others waiting: SGLang and TokenFlow in a burst", 0.2, _ahead_runs, _ahead),
    Item("fig2", "Motivation: SGLang in a burst on the H200", 0.3, _peak_runs, _peak),
)
