"""What the gains are made of: what a plain rate cap gives, what offload gives, what knowing the buffers adds, who pays for it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from .. import pictures, setups
from ..item import Item, Picture, Table, Told
from ..judging import mean
from ..runs import Found, Run
from ..setups import How, Setup

_ROWS = ("4090-b", "4090-c", "4090-d", "h200-b", "h200-c")
_POLICIES = ("sglang", "sglang-ratecap", "fcfs-offload", "vtc", "fastserve", "least-slack", "andes", "andes[preemption_cap=1]",
             "andes-code", "tokenflow", "tokenflow-paper")
#: what each has of TokenFlow's means
_SHARED = {"sglang-ratecap": "rate cap", "fcfs-offload": "offload", "vtc": "fairness (vtc)",
           "fastserve": "preemption without buffers (fastserve)", "least-slack": "least slack"}

_WORTH = 0.05       # of SGLang's effective throughput: a smaller gain has no shares

_FRONTIER_ROWS = ("4090-c", "h200-b", "h200-c")
#: how far the admission bound moves: kappa, the share of all memory that the admitted may come to hold; at the end no Eq. 6
_BOUNDS = tuple((f"kappa {kappa:g}" + ("" if bound else ", no rate bound"),
                 f"tokenflow[overcommit={kappa:g}" + ("]" if bound else ",rate_bound=false]"))
                for kappa, bound in ((0.25, True), (0.5, True), (0.95, True), (2.0, True), (2.0, False), (8.0, False)))


def _used(how: How) -> list[Setup]:
    return [setups.table1(row, how) for row in _ROWS]


def _frontier(how: How) -> list[Setup]:
    return [setups.table1(row, how) for row in _FRONTIER_ROWS]


def _runs(how: How) -> list[Run]:
    plain = [run for setup in _used(how) for run in setup.runs(_POLICIES, how)]
    return plain + [run for setup in _frontier(how) for _, policy in _BOUNDS for run in setup.runs((policy,), how)]


def _shares(how: How, found: Found) -> Table:
    rows = []
    for setup in _used(how):
        effective = {policy: mean(setup, policy, "effective_throughput", how, found) or 0.0 for policy in _POLICIES}
        gain = effective["tokenflow"] - effective["sglang"]

        def share(policy: str, effective: dict[str, float] = effective, gain: float = gain) -> float | None:
            return (effective[policy] - effective["sglang"]) / gain if gain > _WORTH * effective["sglang"] else None
        control = max(("sglang-ratecap", "fcfs-offload"), key=effective.__getitem__)
        rows.append([setup.name, effective["sglang"], effective["tokenflow"], effective["tokenflow"] / effective["sglang"] - 1,
                     *map(share, _SHARED),
                     effective["tokenflow"] / effective[control] - 1, control])
    return Table("Effective throughput: shares of TokenFlow's gain over SGLang that others reach alone", (
        "on", "SGLang, tokens/s", "TokenFlow, tokens/s", "gain", *(f"share: {means}" for means in _SHARED.values()),
        "TokenFlow over the better control", "which is"), rows)


def _waiting(title: str, arms: Sequence[tuple[str, str]], used: Sequence[Setup], how: How, found: Found) -> Table:
    """Waiting and stalling of each arm, (its name here, policy), and their sum."""
    rows = []
    for setup in used:
        for label, policy in arms:
            waited, p99, stalled, effective, raw = (mean(setup, policy, key, how, found) for key in (
                "mean_ttft_ms", "p99_ttft_ms", "mean_rebuffer_s", "effective_throughput", "output_throughput"))
            if waited is not None and p99 is not None and stalled is not None:
                rows.append([setup.name, label, waited / 1000, p99 / 1000, stalled, waited / 1000 + stalled, effective, raw])
    return Table(title, ("on", "policy", "mean TTFT, s", "P99 TTFT, s", "rebuffering, mean s", "mean TTFT + rebuffering, s",
                         "effective tokens/s", "output tokens/s"), rows)


def _tell(how: How, found: Found) -> Told:
    panels: dict[str, dict[str, list[tuple[float, float, str]]]] = {}
    for setup in _frontier(how):
        def at(policy: str, beside: str, setup: Setup = setup) -> list[tuple[float, float, str]]:
            waited, stalled = (mean(setup, policy, key, how, found) for key in ("mean_ttft_ms", "mean_rebuffer_s"))
            return [] if waited is None or stalled is None else [(waited / 1000, stalled, beside)]
        moving = [point for label, policy in _BOUNDS for point in at(policy, label.removeprefix("kappa "))]
        panels[setup.name] = {"tokenflow, bound moving": _apart(moving),
                              **{policy: at(policy, "") for policy in _POLICIES if policy != "tokenflow"}}
    used = _used(how)
    return Told([], [
        "A share of 1 means that the control alone gains as much effective throughput as TokenFlow; shares need not add up to 1. "
        "Where TokenFlow gains less than 5 % there are none. What FastServe reaches needs no knowledge of buffers; what its "
        "readers stall for it stands below.",
        "kappa (`overcommit`) bounds what is admitted: the share of GPU and host memory that the admitted may come to hold; 0.95 "
        "is the default."],
        [_shares(how, found), _waiting("Waiting and stalling", [(policy, policy) for policy in _POLICIES], used, how, found),
         _waiting("The frontier: TokenFlow's bound on admission moves", _BOUNDS, _frontier(how), how, found)],
        [Picture("gains-frontier", "Mean wait for the first token against mean stalling, each policy a point; numbers beside the "
                                   "line are kappa.",
                 partial(pictures.frontier, panels, "mean TTFT, s", "mean rebuffering, s"))])


def _apart(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Points that lie on one another become one, which has the first one's text and the last one's."""
    told: list[tuple[float, float, str]] = []
    for x, y, beside in points:
        if told and all(abs(one - other) <= 0.02 * max(abs(one), 1.0) for one, other in ((x, told[-1][0]), (y, told[-1][1]))):
            told[-1] = (*told[-1][:2], f"{told[-1][2].split(' to ')[0]} to {beside}")
        else:
            told.append((x, y, beside))
    return told


ITEMS = (Item("gains", "What the gains are made of: controls, and the frontier between waiting and stalling", 5, _runs, _tell),)
