"""A replay as a result like the simulator's: the same tables, by the same metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policies.api import Plan, Policy, View
from sim.counters import Counters
from sim.goodput import described
from sim.machine import Machine
from sim.records import Fate, Records
from sim.result import Result, check_conservation
from sim.timeline import Timeline
from traces import BadInput, Trace

from .replay_play import Played

MEASURED, EMULATED = "measured", "measured, emulated link"
IN_PROCESS = "when the engine's step had returned"
AT_CLIENT = "at the client"
SERVER = "server"       #: label of one whose policy nobody named


class Stock:
    """vLLM's own scheduler, left alone."""

    def plan(self, view: View) -> Plan:
        raise AssertionError("vLLM's own scheduler makes no plans")


class Replayed(Result):
    """What a real engine did. Its counters tell decode steps from others, but its records do not."""

    def _check(self) -> None:
        check_conservation(self.trace, self.records, None)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What was replayed, and on what."""

    label: str
    policy: Policy
    engine: str                         #: in words
    model: str
    token_times: str                    #: IN_PROCESS or AT_CLIENT
    link_status: str
    emulated: bool = False              #: the link's figures are not a machine's
    machine: Machine | None = None      #: as the policy knows it; None where nobody does
    believes: Mapping[str, Any] = field(default_factory=dict)       #: what that machine's figures rest on
    limits: Mapping[str, Any] = field(default_factory=dict)         #: of the engine, by keys of a machine, where there is none
    settings: Mapping[str, Any] = field(default_factory=dict)

    def provenance(self, fidelity: Mapping[str, Any]) -> dict[str, Any]:
        """What run.json says of where its figures come from."""
        said = {"hardware": self.engine, "gpu": None, "model": self.model, "latency_status": None} | dict(self.believes)
        return said | {
            "model": self.model, "status": EMULATED if self.emulated else MEASURED, "engine": self.engine,
            "token_times": self.token_times, "link_status": self.link_status, "plan_fidelity": None, "departures": None,
            "fallbacks": None, "overlaps": None} | dict(self.limits) | dict(fidelity)


def replayed(trace: Trace, played: Played, setup: Setup, *, counters: Counters | None = None,
             links: Mapping[str, float] | None = None, fidelity: Mapping[str, Any] | None = None, timeline: Timeline | None = None,
             percentiles: Sequence[float] = (), goodput: Mapping[str, float] | None = None) -> Replayed:
    """BadInput when the engine took none of the requests."""
    if played.rejected.all():
        raise BadInput("trace", trace.source or "given", f"no request fits: {played.reason[0]}")
    rate = setup.settings["consume_rate"]
    rates = np.where(np.isnan(trace.consume_tps), rate, trace.consume_tps)
    return Replayed(
        trace=trace, rates=rates, records=records_of(trace, played), counters=counters, machine=setup.machine,
        policy=setup.policy, provenance=setup.provenance(fidelity or {}),
        settings=dict(setup.settings) | {"goodput": described(goodput or {})}, links=links, end_s=played.end_s, label=setup.label,
        timeline=timeline, percentiles=percentiles, goodput=goodput or {})


def records_of(trace: Trace, played: Played) -> Records:
    records = Records.of_token_times(played.sent_s, [np.array(times) for times in played.times_s], trace.output_tokens)
    records.fate[played.rejected] = Fate.REJECTED
    records.sent_s[played.rejected] = trace.arrival_s[played.rejected]
    records.reason[:] = played.reason
    known = not np.isnan(played.preemptions[~played.rejected]).all()
    records.preemptions = np.nan_to_num(played.preemptions).astype(np.int64) if known else np.full(len(trace), np.nan)
    return records
