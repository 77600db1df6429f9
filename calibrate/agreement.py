"""How well a prediction agrees with what was measured: errors by metric, distances of distributions, effects of policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from scipy.stats import ks_2samp, wasserstein_distance

from policies.api import Floats

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """A key of run.json. An error is within its limit when one of the two is kept."""

    key: str
    title: str
    scale: float = 1.0              #: of what is shown
    form: str = "{:,.2f}"
    share: float | None = None      #: limit of |predicted / measured - 1|; None: no limit
    absolute: float | None = None   #: limit of |predicted - measured|, in the key's own unit

    @property
    def limit(self) -> str:
        """In words; "" for none."""
        if self.share is None:
            return ""
        return f"{100 * self.share:g} %" + ("" if self.absolute is None else f" or {self.absolute:g} s")

    def ok(self, predicted: float | None, measured: float | None) -> bool | None:
        """None where there is no limit."""
        if self.share is None:
            return None
        if predicted is None or measured is None:
            return predicted is measured
        off = abs(predicted - measured)
        return off <= self.share * abs(measured) or (self.absolute is not None and off <= self.absolute)


def _spread(name: str, title: str, mean_limit: float | None = None) -> tuple[Metric, ...]:
    unit, scale = (", s", 1e-3) if name in ("ttft", "e2el") else (", ms", 1.0)
    form = "{:,.2f}" if scale == 1e-3 else "{:,.1f}"
    return (Metric(f"mean_{name}_ms", f"{title} mean{unit}", scale, form, mean_limit),
            Metric(f"median_{name}_ms", f"{title} median{unit}", scale, form),
            Metric(f"p99_{name}_ms", f"{title} P99{unit}", scale, form))


FIDELITY = ("plan_fidelity", "departures", "fallbacks")     #: how far plans were carried out

METRICS = (
    *_spread("ttft", "TTFT", 0.10),
    *_spread("tpot", "TPOT", 0.10),
    *_spread("itl", "ITL"),
    *_spread("e2el", "E2E"),
    Metric("duration", "makespan, s", share=0.10),
    Metric("output_throughput", "output tokens/s", form="{:,.1f}"),
    Metric("request_throughput", "requests/s"),
    Metric("effective_throughput", "effective tokens/s", form="{:,.1f}", share=0.15),
    Metric("mean_rebuffer_s", "rebuffering mean, s", share=0.15, absolute=0.2),
    Metric("p99_rebuffer_s", "rebuffering P99, s"),
    Metric("preemptions", "preemptions", form="{:,.0f}"),
    Metric("loads", "loads", form="{:,.0f}"),
    Metric("recomputed_tokens", "tokens recomputed", form="{:,.0f}"),
    Metric("decode_steps", "decode steps", form="{:,.0f}"),
    Metric("prefill_steps", "prefill steps", form="{:,.0f}"),
)
LIMITED = tuple(metric for metric in METRICS if metric.share is not None)

#: of requests.csv: whose distributions are held against each other, in seconds
DISTRIBUTIONS = {"ttft_s": "TTFT", "tpot_s": "TPOT", "rebuffer_s": "rebuffering"}


@dataclass(frozen=True)
class Row:
    """One metric of one policy; None where nobody knows it."""

    metric: Metric
    predicted: float | None
    measured: float | None          #: median of the runs
    low: float | None               #: of the runs
    high: float | None

    @property
    def error(self) -> float | None:
        """predicted / measured - 1."""
        if self.predicted is None or not self.measured:
            return 0.0 if self.predicted == self.measured == 0 else None
        return self.predicted / self.measured - 1

    @property
    def ok(self) -> bool | None:
        return self.metric.ok(self.predicted, self.measured)


def rows(predicted: Summary, measured: Sequence[Summary]) -> list[Row]:
    """Every metric that either knows."""
    found = []
    for metric in METRICS:
        values = [value for each in measured if (value := each.get(metric.key)) is not None]
        row = Row(metric, predicted.get(metric.key), middle(values), min(values, default=None), max(values, default=None))
        if row.predicted is not None or row.measured is not None:
            found.append(row)
    return found


def middle(values: Sequence[float]) -> float | None:
    """The median; None of nothing."""
    return float(np.median(values)) if len(values) else None


def medians(summaries: Sequence[Summary]) -> dict[str, float | None]:
    """Of every number that run.json has, over several runs."""
    numbers = {key for each in summaries for key, value in each.items() if isinstance(value, int | float)}
    return {key: middle([each[key] for each in summaries if isinstance(each.get(key), int | float)]) for key in sorted(numbers)}


@dataclass(frozen=True)
class Distance:
    """Between a predicted distribution and a measured one."""

    ks: float | None                #: two-sample Kolmogorov-Smirnov statistic: the largest gap between the two CDFs
    wasserstein_s: float | None     #: mean distance of equal quantiles


def distance(predicted: Floats, measured: Sequence[Floats]) -> Distance:
    """Medians over the runs; NaN is nobody."""
    ours = predicted[~np.isnan(predicted)]
    theirs = [known for each in measured if len(known := each[~np.isnan(each)])]
    if not len(ours) or not theirs:
        return Distance(None, None)
    return Distance(middle([float(ks_2samp(ours, each).statistic) for each in theirs]),
                    middle([float(wasserstein_distance(ours, each)) for each in theirs]))


SAME, FACTOR, SAME_S = 0.05, 1.5, 0.2

EFFECT_RULE = (
    f"an effect is a policy's ratio to the first; prediction and measurement agree where both lie on the same side of 1, or within "
    f"{100 * SAME:g} % of it, and within a factor of {FACTOR:g} of each other. Of rebuffering it is the difference: the same sign, "
    f"or both within {SAME_S:g} s")


@dataclass(frozen=True)
class Effect:
    """What a policy changes against the first one: a ratio, of rebuffering a difference in seconds."""

    metric: Metric
    predicted: float | None
    measured: float | None

    @property
    def is_difference(self) -> bool:
        return self.metric.absolute is not None

    @property
    def agrees(self) -> bool | None:
        """None where it cannot be said."""
        ours, theirs = self.predicted, self.measured
        if ours is None or theirs is None:
            return None
        if self.is_difference:
            return ours * theirs > 0 or max(abs(ours), abs(theirs)) <= SAME_S
        if ours <= 0 or theirs <= 0:
            return None
        same = (ours - 1) * (theirs - 1) > 0 or max(abs(ours - 1), abs(theirs - 1)) <= SAME
        return same and abs(log(ours / theirs)) <= log(FACTOR)


def effects(predicted: tuple[Summary, Summary], measured: tuple[Summary, Summary]) -> list[Effect]:
    """Of a policy, each beside the first policy: (this, first)."""
    return [Effect(metric, _effect(metric, *predicted), _effect(metric, *measured)) for metric in LIMITED]


def _effect(metric: Metric, this: Summary, first: Summary) -> float | None:
    value, base = this.get(metric.key), first.get(metric.key)
    if value is None or base is None:
        return None
    if metric.absolute is not None:
        return float(value - base)
    return float(value / base) if base else None
