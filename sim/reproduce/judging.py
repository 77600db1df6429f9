"""Claims that compare two policies, held against runs; a row of the verdict table each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..intervals import Estimate, estimate
from . import verdicts
from .claims import Claim, of_item
from .runs import Found, Run
from .setups import CONTROLS, OURS, WITHOUT_BOUNDS, How, Setup


@dataclass(frozen=True)
class Row:
    """One verdict."""

    claim: str
    item: str
    source: str
    says: str
    verdict: str
    policy: str = ""
    baseline: str = ""
    on: str = ""                            #: the setup that it was judged on
    published: float | None = None
    ours: Estimate | None = None            #: like the published one
    unit: str = ""                          #: of both; none: they are ratios
    value: float | None = None              #: what is compared, of the policy and
    baseline_value: float | None = None     #: of the baseline: means over seeds
    to_controls: Mapping[str, float | None] | None = None   #: the policy's value over that of each control
    rebuffer_s: float | None = None
    baseline_rebuffer_s: float | None = None
    why: str = ""

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def row(claim: Claim, verdict: str, **more: Any) -> Row:
    return Row(claim.id, claim.item, claim.source, claim.says, verdict, **({"published": claim.published} | more))


def compared(item: str, setups: Sequence[Setup], how: How, found: Found) -> list[Row]:
    """A row for each baseline and policy of the item's claims; those that the item judges itself are left out."""
    by_name = {setup.name: setup for setup in setups}
    rows = []
    for claim in of_item(item):
        if claim.kind == "untestable":
            rows.append(row(claim, verdicts.UNTESTABLE, why=claim.reason))
        elif claim.kind != "item":
            for policy in OURS if "{}" in claim.ours else ("",):
                rows += [_judged(claim, policy, baseline, by_name, how, found) for baseline in claim.baselines]
    return rows


def means(setup: Setup, policy: str, metric: str, how: How, found: Found) -> list[float]:
    """Of each seed that came to a result."""
    values = [found[run].get(metric) for run in setup.runs((policy,), how)]
    return [float(value) for value in values if value is not None]


def mean(setup: Setup, policy: str, metric: str, how: How, found: Found) -> float | None:
    values = means(setup, policy, metric, how, found)
    return sum(values) / len(values) if values else None


def ratio(setup: Setup, ours: str, baseline: str, metric: str, how: How, found: Found) -> Estimate:
    """Seed by seed, the same requests: ours over the baseline's."""
    pairs = [(found[setup.run(ours, seed)], found[setup.run(baseline, seed)]) for seed in how.seeds_of(setup)]
    return estimate([float(one[metric]) / float(other[metric]) for one, other in pairs])


def _judged(claim: Claim, policy: str, baseline: str, setups: Mapping[str, Setup], how: How, found: Found) -> Row:
    ours, base = claim.ours.format(policy), baseline.format(policy)
    used = [setups[name] for name in claim.rows]
    if failed := _failure([run for setup in used for run in setup.runs((ours, base), how)], found):
        return row(claim, verdicts.FAILS, policy=ours, baseline=base, why=failed)
    ratios = {setup.name: ratio(setup, ours, base, claim.metric, how, found) for setup in used}
    if claim.kind == "near":
        on = max(ratios, key=lambda name: abs(ratios[name].mean - 1))
        verdict = verdicts.near(ratios[on], claim.bound)
    elif claim.kind == "at least":
        on = verdicts.worst(ratios, 1)
        verdict = verdicts.at_least(ratios[on], claim.bound)
    else:
        on = verdicts.best(ratios, claim.up) if claim.kind == "best" else verdicts.worst(ratios, claim.up)
        verdict = verdicts.judge(ratios[on], claim.published, claim.sign)
    setup = setups[on]

    def told(which: str, metric: str) -> float | None:
        return mean(setup, which, metric, how, found)

    value, stalled, base_stalled = told(ours, claim.metric), told(ours, "mean_rebuffer_s"), told(base, "mean_rebuffer_s")
    controls = {control: over(value, told(control, claim.metric)) for control in CONTROLS
                if setup.run(control, 1).key in found} if policy else None
    made = row(claim, verdict, policy=ours, baseline=base, on=on, ours=ratios[on], value=value,
               baseline_value=told(base, claim.metric), to_controls=controls or None, rebuffer_s=stalled,
               baseline_rebuffer_s=base_stalled)
    return replace(made, why=reason(claim, made, setup, how, found))


def reason(claim: Claim, judged: Row, setup: Setup, how: How, found: Found) -> str:
    """The most likely reason why a claim does not come out as published: what the runs beside it say.

    Of a gain over SGLang: what is left of it over SGLang with chunked prefill, its default.
    """
    gains = bool(claim.up and judged.ours and (judged.ours.mean - 1) * claim.up > 0)

    def told(policy: str, metric: str) -> float | None:
        return mean(setup, policy, metric, how, found) if setup.run(policy, 1).key in found else None

    def waited_and_stalled(policy: str) -> str:
        waited, stalled = told(policy, "mean_ttft_ms"), told(policy, "mean_rebuffer_s")
        return "" if waited is None or stalled is None else f"{waited / 1000:.3g} s + {stalled:.3g} s"

    def preempting(policy: str) -> str:
        return f"{waited_and_stalled(policy)} with {told(policy, 'preemptions') or 0:,.0f} preemptions"

    def beside(policy: str) -> str:
        ratio_then = over(told(policy, claim.metric), judged.baseline_value)
        return waited_and_stalled(policy) + (f", ratio x{ratio_then:.3g}" if ratio_then else "")
    chunked = told("sglang-chunked", claim.metric) if gains and judged.baseline == "sglang" else None
    stock = [f"over `sglang-chunked`, SGLang as it comes: x{judged.value / chunked:.3g}"] if judged.value and chunked else []
    if judged.verdict == verdicts.HOLDS or (gains and claim.published is None and judged.verdict != verdicts.FAILS):
        return "; ".join(stock)
    said = ["the interval over seeds includes no change"] if gains and judged.verdict == verdicts.FAILS else []
    plain, arm = judged.policy.partition("[")[::2]
    if claim.metric == "duration":
        said.append(f"{busy(setup, judged.policy, how, found)}, against {busy(setup, judged.baseline, how, found)}")
    elif judged.baseline == "andes":
        said.append(f"waiting + stalling, means: {waited_and_stalled('andes')} under Andes, which lets everyone in, "
                    f"{waited_and_stalled(judged.policy)} here")
    elif judged.policy == "andes" and not told("andes", "preemptions"):
        said.append("nothing is short here: Andes preempts nobody, while SGLang keeps newcomers out to have room for growth")
    elif arm and judged.baseline == "sglang":
        said.append(f"waiting + stalling, means: {preempting('sglang')} under SGLang, {preempting(judged.policy)} here, "
                    f"{preempting(plain)} with the default")
    elif judged.baseline == "sglang" and claim.metric != "output_throughput" and not gains:
        idle = not told("sglang", "preemptions") and not told(judged.policy, "preemptions")
        if idle and judged.ours and _as_good_as_one(judged.ours):
            return (f"nobody is preempted here, and waiting + stalling are alike: {waited_and_stalled('sglang')} under "
                    f"SGLang, {waited_and_stalled(judged.policy)} here: at this load there is nothing to gain")
        said.append(f"waiting + stalling, means: {waited_and_stalled('sglang')} under SGLang, {waited_and_stalled(judged.policy)} "
                    f"here")
        if plain != OURS[0] and waited_and_stalled(OURS[0]):
            said.append(f"`{OURS[0]}`, with working set, fallback and utility mended: {beside(OURS[0])}")
        said += [f"`{OURS[0]}` {bound}: {beside(policy)}" for bound, policy in WITHOUT_BOUNDS.items() if waited_and_stalled(policy)]
    elif not gains or judged.verdict == verdicts.FAILS:
        said.append(f"waiting + stalling, means: {preempting(judged.policy)}, against {preempting(judged.baseline)}")
    return "; ".join(said + stock)


def busy(setup: Setup, policy: str, how: How, found: Found) -> str:
    """Whether the run's time went into computing or into waiting for the link."""
    span_s, share, again, out, back = (mean(setup, policy, key, how, found) or 0.0 for key in (
        "duration", "gpu_busy_share", "recomputed_tokens", "d2h_bytes", "h2d_bytes"))
    return (f"the GPU computes {100 * share:.3g} % of {span_s:.1f} s, {again:,.0f} tokens computed again, "
            f"{(out + back) / 1e9:.3g} GB over the link")


def _as_good_as_one(ratio: Estimate) -> bool:
    low, high = (ratio.mean if end is None else end for end in (ratio.low, ratio.high))
    return low <= 1 <= high or abs(ratio.mean - 1) <= 0.005


def over(value: float | None, other: float | None) -> float | None:
    return value / other if value is not None and other else None


def _failure(runs: Sequence[Run], found: Found) -> str:
    for run in runs:
        if failed := found.failure(run):
            return f"{run.policy} came to no end on {run.workload}: {failed}"
    return ""
