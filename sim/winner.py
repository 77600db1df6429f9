"""Which policy of several wins, by one rule that is printed with the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

BASELINES = ("stock", "vllm")       #: whom the others are held against: vLLM's own scheduler on a real engine, else its policy
MORE_REBUFFER_S = 0.5
LEAST_THROUGHPUT = 0.97

RULE = (f"lowest P99 TTFT among policies whose mean rebuffering is at most vLLM's + {MORE_REBUFFER_S:g} s per request and whose "
        f"output tokens/s are at least {LEAST_THROUGHPUT:g} of vLLM's; ties by effective tokens/s")


@dataclass(frozen=True)
class Verdict:
    winner: str | None          #: None: nobody who keeps to the limits is ahead of the baseline
    baseline: str
    out: Mapping[str, str]      #: policies beyond a limit, and which

    def __str__(self) -> str:
        shut = "".join(f"\n  {policy} is out: {why}" for policy, why in self.out.items())
        said = f"Winner: {self.winner}." if self.winner else f"No winner: nobody within the limits is ahead of {self.baseline}."
        return f"{said} The rule: {RULE}.{shut}"


def baseline_of(policies: Sequence[str]) -> str | None:
    """Whom the rule holds the others against; None when it is not among them."""
    return next((name for name in BASELINES if name in policies), None)


def verdict(summaries: Mapping[str, Mapping[str, Any]]) -> Verdict | None:
    """Of summaries by policy; None without a baseline or without anybody else.

    vLLM's own scheduler and its policy never win against each other.
    """
    baseline = baseline_of(list(summaries))
    others = [policy for policy in summaries if policy not in BASELINES]
    if baseline is None or not others:
        return None
    base = summaries[baseline]
    out = {policy: why for policy in others if (why := _beyond(summaries[policy], base))}
    best = min((policy for policy in (baseline, *others) if policy not in out), key=lambda policy: _rank(summaries[policy]))
    return Verdict(None if best == baseline else best, baseline, out)


def _rank(summary: Mapping[str, Any]) -> tuple[float, float]:
    ttft_ms, effective = summary.get("p99_ttft_ms"), summary.get("effective_throughput")
    return inf if ttft_ms is None else ttft_ms, -(effective or 0.0)


def _beyond(summary: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Which limit it breaks; "" for none."""
    if summary.get("p99_ttft_ms") is None:
        return "it completed no request"
    stalled_s, most_s = summary.get("mean_rebuffer_s") or 0.0, (base.get("mean_rebuffer_s") or 0.0) + MORE_REBUFFER_S
    if stalled_s > most_s:
        return f"rebuffering {stalled_s:.2f} s per request, at most {most_s:.2f}"
    tps, least_tps = summary["output_throughput"], LEAST_THROUGHPUT * (base.get("output_throughput") or 0.0)
    return f"{tps:,.1f} output tokens/s, at least {least_tps:,.1f}" if tps < least_tps else ""
