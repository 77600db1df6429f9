"""What a search is after: metrics of the summary with their better way, limits on others, and who is ahead of whom. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf, isfinite
from typing import TypeVar

from traces import BadInput, cells

from ..intervals import Estimate
from ..report_terms import Better, measure_of
from .setup import nearest

Key = TypeVar("Key")

BETTER, WORSE, SAME, UNCLEAR = "better", "worse", "the same", "unclear"

#: metrics that limits of goodput are needed for
_GOODPUT = ("request_goodput", "goodput_share")

#: of names that are close to what someone mistyped
_KNOWN = ("mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms", "ttft_over_1300ms_share", "mean_tpot_ms", "p99_tpot_ms", "p99_itl_ms",
          "mean_e2el_ms", "mean_rebuffer_s", "p99_rebuffer_s", "stalled_share", "lost_fluency_share", "effective_throughput", "qos",
          "mean_qoe", "p10_qoe", "request_goodput", "goodput_share", "output_throughput", "request_throughput", "duration",
          "preemptions")


@dataclass(frozen=True)
class Objective:
    key: str
    better: Better
    unit: str

    def __str__(self) -> str:
        return f"{self.key}{f' ({self.unit})' if self.unit else ''}: {self.better} is better"

    def ahead(self, one: float, other: float) -> bool:
        return one < other if self.better == "lower" else one > other


@dataclass(frozen=True)
class Limit:
    """A metric's bound; `relative`: times what the default parameters have."""

    key: str
    most: bool          #: else the least
    bound: float
    relative: bool

    def __str__(self) -> str:
        of = " times the defaults'" if self.relative else ""
        return f"{self.key} at {'most' if self.most else 'least'} {self.bound:g}{of}"

    def excess(self, value: float, default: float) -> float:
        """By how much it is broken, as a share of the bound; 0 or less where it is kept."""
        bound = self.bound * default if self.relative else self.bound
        over = value - bound if self.most else bound - value
        return over / abs(bound) if bound else over


def objective(option: str, key: str) -> Objective:
    measure = measure_of(key)
    if measure is None:
        raise BadInput(option, repr(key), f"no metric that has a better way; did you mean '{nearest(key, _KNOWN)}'?")
    return Objective(key, measure.better, measure.unit)


def parse_objectives(text: str) -> list[Objective]:
    found = [objective("--objective", key.strip()) for key in text.split(",")]
    for each in found:
        if found.count(each) > 1:
            raise BadInput("--objective", each.key, "is given twice")
    return found


def parse_limit(option: str, text: str) -> Limit:
    """KEY=VALUE, or KEY=1.1x for times the defaults'."""
    key, equals, bound = (part.strip() for part in text.partition("="))
    if not equals:
        raise BadInput(option, repr(text), "must be METRIC=VALUE, or METRIC=1.1x for times what the defaults have")
    objective(option, key)
    relative = bound.endswith("x")
    try:
        number = cells.number(bound.removesuffix("x"))
    except ValueError as error:
        raise BadInput(option, text, f"{cells.shown(bound)} {error}") from None
    if not isfinite(number):
        raise BadInput(option, text, "must be a finite number")
    return Limit(key, option == "--most", number, relative)


def percentiles_of(keys: Iterable[str]) -> list[str]:
    """Those that must be asked for so that a summary has these metrics, P99 aside."""
    words = [key[1:].partition("_")[0] for key in keys if key[0] == "p" and key[1:2].isdigit() and not key.endswith("_qoe")]
    return [word for word in dict.fromkeys(words) if word != "99"]


def needs_goodput(keys: Iterable[str]) -> str | None:
    return next((key for key in keys if key in _GOODPUT), None)


def verdict(objective: Objective, change: Estimate) -> str:
    """Of a paired change against the defaults: by whether its interval excludes none; one seed is judged by its value alone."""
    low, high = (change.mean if end is None else end for end in (change.low, change.high))
    if low == high == 0:
        return SAME
    if low <= 0 <= high:
        return UNCLEAR
    return BETTER if objective.ahead(change.mean, 0.0) else WORSE


def front(values: Mapping[Key, Sequence[float]], objectives: Sequence[Objective]) -> list[Key]:
    """Those whom nobody beats in one objective without falling behind in another."""
    def beats(one: Sequence[float], other: Sequence[float]) -> bool:
        behind = any(each.ahead(b, a) for each, a, b in zip(objectives, one, other))
        return not behind and any(each.ahead(a, b) for each, a, b in zip(objectives, one, other))
    return [key for key, own in values.items() if not any(beats(other, own) for other in values.values())]


def mean_ranks(values: Mapping[Key, Sequence[float]], better: Sequence[Better]) -> dict[Key, float]:
    """Each one's place from 1 in every column, ties sharing the mean of theirs, on average over columns."""
    total = dict.fromkeys(values, 0.0)
    for column, way in enumerate(better):
        def order(key: Key, column: int = column, way: Better = way) -> float:
            value = values[key][column]
            return value if way == "lower" else -value
        place = 1
        for _, group in groupby(sorted(values, key=order), order):
            tied = list(group)
            for key in tied:
                total[key] += place + (len(tied) - 1) / 2
            place += len(tied)
    return {key: ranks / len(better) for key, ranks in total.items()}


def best(ranks: Mapping[Key, float]) -> Key:
    """The lowest; of several the one that is named first."""
    return min(ranks, key=lambda key: ranks.get(key, inf))
