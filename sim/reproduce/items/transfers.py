"""Moving KV: Fig. 8, three ways of writing it to the host, and Fig. 10, loads beside evictions."""

from __future__ import annotations

from functools import partial

from ...intervals import estimate
from .. import pictures, setups
from ..claims import of_item
from ..item import Item, Picture, Told
from ..judging import Row, busy, mean, means, ratio, row
from ..runs import Found, Run
from ..setups import OURS, How, Setup
from ..verdicts import FAILS, judge
from .comparison import table

_METRICS = (("duration, s", "duration", 1.0), ("preemptions", "preemptions", 1.0),
            ("tokens unwritten at preemptions, all", "unwritten_tokens", 1.0),
            ("steps kept waiting by a chunk, s", "late_s", 1.0), ("copies that overlap", "overlaps", 1.0),
            ("mean TTFT, s", "mean_ttft_ms", 1e-3), ("rebuffering, mean s", "mean_rebuffer_s", 1.0))

_BACK, _OFF = "{}[write_through=false]", "{}[overlap=false]"


def _b(how: How) -> Setup:
    return setups.table1("4090-b", how)


def _eager(how: How) -> Setup:
    """An engine that takes the link for 50 times as fast as it is writes whatever is new before every step."""
    return setups.table1("4090-b", how, machine={"believed_link": 50.0}, name="4090-b, link believed x50")


def _writes(how: How) -> list[Run]:
    return [*(run for policy in OURS for run in _b(how).runs((policy, _BACK.format(policy)), how, ("residency",))),
            *_eager(how).runs(("tokenflow",), how, ("residency",))]


def _tell_writes(how: How, found: Found) -> Told:
    setup, eager, (claim,) = _b(how), _eager(how), of_item("fig8")
    rows: list[Row] = []
    for policy in OURS:
        back = _BACK.format(policy)
        each = [[unwritten / max(times, 1.0) for unwritten, times in zip(means(setup, arm, "unwritten_tokens", how, found),
                                                                       means(setup, arm, "offloads", how, found))]
                for arm in (policy, back)]
        shares = [through / whole for through, whole in zip(*each) if whole]
        if not shares:
            rows.append(row(claim, FAILS, policy=policy, baseline=back, on=setup.name, why="nobody is preempted"))
            continue
        left = estimate(shares)
        rows.append(row(claim, judge(left, sign=-1), policy=policy, baseline=back, on=setup.name, ours=left,
                        value=sum(each[0]) / len(each[0]), baseline_value=sum(each[1]) / len(each[1]),
                        rebuffer_s=mean(setup, policy, "mean_rebuffer_s", how, found),
                        baseline_rebuffer_s=mean(setup, back, "mean_rebuffer_s", how, found),
                        why="tokens left to write per preemption"))
    lines = {"write-back": found[setup.run(_BACK.format("tokenflow"), 1)], "write-through": found[eager.run("tokenflow", 1)],
             "rearranged": found[setup.run("tokenflow", 1)]}
    panels: dict[str, dict[str, pictures.Line]] = {
        title: {label: (values["residency"]["at_s"], values["residency"][key]) for label, values in lines.items()}
        for title, key in (("KV to the host, GB/s", "d2h_gb_per_s"), ("requests whose KV is being written before they can go",
                                                                      "evicting"),
                           ("KV to the GPU, GB/s", "h2d_gb_per_s"))}
    arms = [arm for policy in OURS for arm in (policy, _BACK.format(policy))]
    return Told(rows, ["The burst of 80 on the RTX 4090. Rearranged is `tokenflow` as it is: chunks that the coming step hides. "
                       "Write-through "
                       "without that is emulated, by an engine that believes the link 50 times as fast and writes all that is new "
                       "before each step; the policy's estimates of loads are off by as much then."],
                [table("Three ways of writing", [setup], arms, how, found, _METRICS),
                 table("... and write-through as emulated", [eager], ("tokenflow",), how, found, _METRICS)],
                [Picture("fig8", "The link and who waits for it, over time; first seed.", partial(pictures.lines, panels,
                                                                                                  "time, s"))])


def _overlaps(how: How) -> list[Run]:
    return [run for policy in OURS for run in _b(how).runs((policy, _OFF.format(policy)), how, ("residency",))]


def _tell_overlaps(how: How, found: Found) -> Told:
    setup, (claim,) = _b(how), of_item("fig10")
    rows = []
    for policy in OURS:
        off = _OFF.format(policy)
        took = ratio(setup, policy, off, "duration", how, found)
        why = ("write-through leaves evictions next to nothing to write, so there is little for a load to overlap with: "
               f"{busy(setup, policy, how, found)}, against {busy(setup, off, how, found)}")
        verdict = judge(took, sign=-1)
        rows.append(row(claim, verdict, policy=policy, baseline=off, on=setup.name, ours=took,
                        value=sum(means(setup, policy, "overlaps", how, found)) / len(how.seeds_of(setup)),
                        baseline_value=sum(means(setup, off, "overlaps", how, found)) / len(how.seeds_of(setup)),
                        rebuffer_s=mean(setup, policy, "mean_rebuffer_s", how, found),
                        baseline_rebuffer_s=mean(setup, off, "mean_rebuffer_s", how, found),
                        why="" if verdict != "does not hold" else why))
    told = {"overlap": found[setup.run("tokenflow", 1)], "one after the other": found[setup.run(_OFF.format("tokenflow"), 1)]}
    panels: dict[str, dict[str, pictures.Line]] = {
        title: {label: (values["residency"]["at_s"], values["residency"][key]) for label, values in told.items()}
        for title, key in (("requests being loaded", "loading"), ("requests being evicted", "evicting"), ("requests on the host",
                                                                                                          "away"))}
    arms = [arm for policy in OURS for arm in (policy, _OFF.format(policy))]
    return Told(rows, ["The burst of 80 on the RTX 4090; the ratio is of the run's time, the values count copies that overlap."],
                [table("Loads beside evictions", [setup], arms, how, found, _METRICS)],
                [Picture("fig10", "Who is on the way, over time; first seed.", partial(pictures.lines, panels, "time, s"))])


ITEMS = (
    Item("fig8", "Writing KV to the host: write-back, write-through, rearranged", 0.3, _writes, _tell_writes),
    Item("fig10", "Loads that overlap with evictions, or not", 0.3, _overlaps, _tell_overlaps),
)
