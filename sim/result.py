"""What `simulate` returns: the summary, one row per request, every token's time; and the check that nothing was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cached_property
from math import inf, isfinite
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from policies import POLICIES
from policies.api import Bools, Floats, Policy
from traces import BadInput, Trace
from traces.pace import changing, joined, reading_s

from .counted import counted
from .counters import Counters
from .display import Displayed, number
from .goodput import which_are_good
from .latency import LatencyModel
from .machine import Machine
from .metrics import PerRequest, per_request, serving_summary
from .records import Fate, Records
from .timeline import Timeline
from .token_buffer import read_along

if TYPE_CHECKING:
    from pandas import DataFrame


class Miscount(RuntimeError):
    """A request or a token appeared or got lost: an error of this program, never of its input."""


@dataclass(eq=False, repr=False)
class Result(Displayed):
    """One finished run. Everything in `summary` is computed at construction, `requests` when asked for."""

    trace: Trace
    rates: Floats                       #: tokens per second that each reader takes, at first, shape (n,)
    records: Records
    counters: Counters | None           #: None, and so the links, where a real engine does not count
    machine: Machine | None             #: None where nobody knows a real engine's figures
    policy: Policy                      #: as it was given, before the run
    provenance: Mapping[str, Any]       #: what the machine's figures rest on
    settings: Mapping[str, Any]         #: of the run: consume_rate, max_concurrency, ..., seed
    links: Mapping[str, float] | None   #: bytes moved and seconds busy, by LINKS
    end_s: float                        #: when the simulation stopped
    label: str                          #: the policy's name in tables
    timeline: Timeline | None = None    #: how it went over time, where that was asked for
    percentiles: Sequence[float] = ()   #: to be reported beside P99
    goodput: Mapping[str, float] = field(default_factory=dict)      #: limits in milliseconds, as `sim.goodput` has them
    metrics: PerRequest = field(init=False)
    good: Bools | None = field(init=False)          #: which requests meet every limit; None without limits
    summary: dict[str, Any] = field(init=False)     #: flat, ready for JSON: None where undefined

    def __post_init__(self) -> None:
        self._check()
        self.metrics = per_request(self.trace, self.rates, self.records)
        self.good = which_are_good(self.goodput, self.metrics, self.records.fate == Fate.COMPLETED) if self.goodput else None
        served = serving_summary(self.trace, self.rates, self.records, self.metrics, self.end_s, self.percentiles, self.good)
        worked = engine_summary(self.counters, self.links, served["duration"])
        if self.counters is None:
            worked["preemptions"] = self.records.preemptions.sum()
        self.summary = {key: _plain(value) for key, value in (served | worked | self._description()).items()}

    def _check(self) -> None:
        check_conservation(self.trace, self.records, self.counters)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """One row per request of the trace, in its order; NaN (None in a column of counts or truths) where undefined or not given.

        `good` is there when goodput has limits.
        """
        trace, records, metrics = self.trace, self.records, self.metrics
        reading = metrics.reading
        rebuffers, lost_fluency = reading.rebuffers.astype(object), reading.lost_fluency.astype(object)
        rebuffers[np.isnan(reading.rebuffer_s)] = lost_fluency[np.isnan(reading.rebuffer_s)] = None
        return {
            "id": np.arange(len(trace)),
            "arrival_s": trace.arrival_s,
            "sent_s": records.sent_s,
            "input_tokens": trace.input_tokens,
            "output_tokens": trace.output_tokens,
            "class": trace.klass,
            "consume_tps": self._paces(),
            "fate": np.array(Fate.NAMES, object)[records.fate],
            "reason": records.reason,
            "delivered_tokens": records.tokens,
            "first_token_s": records.first_s,
            "ttft_s": metrics.ttft_s,
            "tpot_s": metrics.tpot_s,
            "e2e_s": metrics.e2e_s,
            "rebuffer_s": reading.rebuffer_s,
            "rebuffers": rebuffers,
            "effective_tokens": reading.effective_tokens,
            "lost_fluency": lost_fluency,
            "qoe": reading.qoe,
            "preemptions": records.preemptions,
        } | ({} if self.good is None else {"good": self.good})

    def _paces(self) -> npt.NDArray[Any]:
        """Each reader's rate; as text where it changes."""
        paces, varying = self.rates.copy(), changing(self.trace.rate_changes)
        if len(varying):
            paces = paces.astype(object)
            paces[varying] = list(map(str, joined(self.rates[varying], self.trace.rate_changes[varying])))
        return paces

    @cached_property
    def requests(self) -> DataFrame:
        """`columns` as a table, a row per request."""
        from pandas import DataFrame
        return DataFrame(self.columns()).astype({"rebuffers": "Int64", "lost_fluency": "boolean"})

    def to_pandas(self) -> DataFrame:
        """`requests`, to change as one likes."""
        return self.requests.copy()

    def __repr__(self) -> str:
        ttft_s, stalled_s = number(self.summary, "mean_ttft_ms", 1e-3), number(self.summary, "mean_rebuffer_s")
        return (f"<Result of {self.label}: {counted(len(self.trace), 'request')}, TTFT mean {ttft_s} s, rebuffering mean "
                f"{stalled_s} s>")

    def _by_label(self) -> Mapping[str, Result]:
        return {self.label: self}

    def token_times_s(self, id: int) -> Floats:
        """Times of the tokens of the request in row `id` of the trace, ascending; empty when it got none."""
        if not 0 <= id < len(self.trace):
            raise BadInput("request", str(id), f"the trace has requests 0 to {len(self.trace) - 1}")
        return self.records.token_times_s(id)

    def read_along(self, id: int) -> tuple[Floats, Floats]:
        """When each token of the request in row `id` is taken up, shape (tokens,); from when to when its reader stalled, (m, 2)."""
        times_s = self.token_times_s(id)
        return read_along(times_s, reading_s(float(self.rates[id]), self.trace.rate_changes[id], len(times_s)))

    def save(self, directory: str | PathLike[str], detailed: bool = False) -> Path:
        """Write run.json, requests.csv and host.json into a new or empty directory, all of them or nothing.

        detailed: run.json also holds vLLM's lists with an element per request (`sim.detailed`).
        """
        from .saving import save_run
        return save_run(self, Path(directory), detailed)

    def _description(self) -> dict[str, Any]:
        said = {"policy": self.label, "policy_args": described(self.policy)} | (
            dict(self.provenance) | {"trace": self.trace.source} | dict(self.settings))
        return dict.fromkeys(_MACHINE_KEYS) | said if self.machine is None else said | machine_summary(self.machine)


def machine_summary(machine: Machine) -> dict[str, Any]:
    """The machine, flat."""
    named = asdict(machine)
    latency = {f"latency_{name}": value for name, value in named.pop("latency").items()}
    pools = {"kv_tokens": machine.kv_blocks * machine.block_size, "host_kv_tokens": machine.host_kv_blocks * machine.block_size}
    return pools | {name: "inf" if value == inf else value for name, value in named.items()} | latency


_MACHINE_KEYS = ("kv_tokens", "host_kv_tokens", *(f.name for f in fields(Machine) if f.name != "latency"),
                 *(f"latency_{f.name}" for f in fields(LatencyModel)))

LINKS = ("h2d_bytes", "d2h_bytes", "h2d_busy_s", "d2h_busy_s", "write_through_bytes", "write_chunks", "late_chunks", "late_s")


def engine_summary(count: Counters | None, links: Mapping[str, float] | None, duration: float) -> dict[str, Any]:
    """What the engine did, flat; the two link utilisations and the GPU's are shares of `duration`. None: it did not say."""
    if count is None or links is None:
        return dict.fromkeys(engine_summary(Counters(), dict.fromkeys(LINKS, 0.0), 1.0))
    return {
        "preemptions": count.preemptions,
        "offloads": count.offloads,
        "drops": count.drops,
        "loads": count.loads,
        "forgets": count.forgets,
        "copies_given_up": count.copies_given_up,
        "recomputed_tokens": count.recomputed_tokens,
        "lost_tokens": count.lost_tokens,
        "unwritten_tokens": count.unwritten_tokens,
        "overlaps": count.overlaps,
        **links,
        "h2d_utilisation": links["h2d_busy_s"] / duration,
        "d2h_utilisation": links["d2h_busy_s"] / duration,
        "gpu_busy_share": (count.decode_s + count.prefill_s) / duration,
        "decisions": count.decisions,
        "decode_steps": count.decode_steps,
        "prefill_steps": count.prefill_steps,
        "prefill_tokens": count.prefill_tokens,
    }


def check_conservation(trace: Trace, records: Records, count: Counters | None) -> None:
    """Miscount unless every request has one fate and every token one time. `count`: where it tells decode steps apart."""
    def must(holds: npt.NDArray[np.bool_], law: str) -> None:
        if not holds.all():
            raise Miscount(f"{law}: broken for requests {(~holds).nonzero()[0][:10].tolist()}")

    fate, n = records.fate, len(trace)
    done = fate == Fate.COMPLETED
    must(done | (fate == Fate.REJECTED) | (fate == Fate.UNFINISHED), "every request has a fate")
    must(~done | (records.tokens == trace.output_tokens), "a completed request has its whole output")
    must((fate != Fate.REJECTED) | (records.tokens == 0), "a rejected request has no token")
    must((fate != Fate.UNFINISHED) | (records.tokens < trace.output_tokens), "an unfinished request lacks a token")
    prefilled, decoded = ~np.isnan(records.segment_token_s), records.segment_stop - records.segment_start
    timed = np.bincount(records.segment_id, prefilled + decoded, n)
    must(timed == records.tokens, "every token delivered has a time")
    must(~done | (records.sent_s <= records.first_s) & (records.first_s <= records.last_s), "sent, first token, last token")
    if count is not None and int(decoded.sum()) != count.decode_tokens:
        raise Miscount(f"tokens that decode steps put out: {count.decode_tokens} counted, {int(decoded.sum())} delivered")


def described(policy: Policy) -> str:
    """The policy's arguments, "name=value, ..."; empty when it is no dataclass."""
    return ", ".join(f"{name}={_shown(value)}" for name, value in _arguments(policy).items())


def name_of(policy: Policy) -> str:
    """The registered name of this very policy, else its class with the arguments that are not the default."""
    for name, make in POLICIES.items():
        if make() == policy:
            return name
    try:
        default = _arguments(type(policy)())
    except TypeError:       # it has no default
        default = {}
    own = ",".join(f"{name}={_shown(value)}" for name, value in _arguments(policy).items() if default.get(name, ...) != value)
    return type(policy).__name__ + (f"[{own}]" if own else "")


def _arguments(policy: Policy) -> dict[str, Any]:
    return {f.name: getattr(policy, f.name) for f in fields(policy) if f.init} if is_dataclass(policy) else {}


def _shown(value: Any) -> str:
    """The value as text that is the same in every run: no addresses in memory."""
    return repr(value) if isinstance(value, bool | int | float | str | None) else type(value).__name__


def _plain(value: Any) -> Any:
    """A value that JSON has: numpy's scalars become Python's, NaN and infinity None."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not isfinite(value) else value
