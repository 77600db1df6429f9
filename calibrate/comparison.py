"""Runs on disk, simulated and measured, put together policy by policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sim.counted import counted
from sim.saved_runs import Saved, read_runs
from sim.winner import BASELINES, RULE, Verdict, verdict
from traces import BadInput

from .agreement import DISTRIBUTIONS, EFFECT_RULE, FIDELITY, METRICS, Distance, Effect, Row, distance, effects, medians, rows
from .replay_result import SERVER

STOCK, ITS_POLICY = BASELINES       #: vLLM's own scheduler, and the policy that simulates it


@dataclass(frozen=True, eq=False)
class Pair:
    """One policy: simulated once, measured in one run or more."""

    label: str                          #: of the measured runs
    simulated: Saved
    measured: Sequence[Saved]

    @cached_property
    def rows(self) -> list[Row]:
        return rows(self.simulated.facts, [run.facts for run in self.measured])

    @cached_property
    def distances(self) -> dict[str, Distance]:
        return {name: distance(self.simulated.column(name)[self.simulated.completed],
                               [run.column(name)[run.completed] for run in self.measured]) for name in DISTRIBUTIONS}

    @cached_property
    def medians(self) -> dict[str, float | None]:
        return medians([run.facts for run in self.measured])

    @property
    def fidelity(self) -> dict[str, float | None]:
        """How far plans were carried out; {} of vLLM's own scheduler."""
        return {} if self.medians.get("plan_fidelity") is None else {name: self.medians[name] for name in FIDELITY}

    @property
    def heading(self) -> str:
        theirs = "" if self.simulated.label == self.label else f" (simulated: {self.simulated.label})"
        runs = "" if len(self.measured) == 1 else f", medians of {counted(len(self.measured), 'run')}"
        return f"{self.label}{theirs}{runs}"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Every policy that was both simulated and measured; effects are against the first."""

    pairs: Sequence[Pair]
    alone: Sequence[str]                #: policies that were only simulated or only measured, in words
    status: str

    @cached_property
    def effects(self) -> dict[str, list[Effect]]:
        first, *others = self.pairs
        return {pair.label: effects((pair.simulated.facts, first.simulated.facts), (pair.medians, first.medians))
                for pair in others}

    @cached_property
    def winners(self) -> dict[str, Verdict | None]:
        return {"simulated": verdict({pair.simulated.label: pair.simulated.facts for pair in self.pairs}),
                "measured": verdict({pair.label: pair.medians for pair in self.pairs})}

    @property
    def judged(self) -> list[bool]:
        """Of every limit, whether it was kept."""
        return [row.ok for pair in self.pairs for row in pair.rows if row.ok is not None]

    @property
    def verdict(self) -> str:
        """In a sentence."""
        kept = f"{sum(self.judged)} of {counted(len(self.judged), 'limit')} kept"
        agree = [effect.agrees for found in self.effects.values() for effect in found if effect.agrees is not None]
        return kept + (f", {sum(agree)} of {counted(len(agree), 'effect')} agree" if agree else "")


def comparison(simulated: Path, measured: Sequence[Path]) -> Comparison:
    """BadInput when nothing fits together."""
    ours, theirs = read_runs(simulated), [read_runs(folder) for folder in measured]
    if any(run.measured for run in ours.values()):
        raise BadInput("compare", str(simulated), "has measurements: SIM_DIR is what tokenflow run or compare has written")
    for folder, runs in zip(measured, theirs):
        if not all(run.measured for run in runs.values()):
            raise BadInput("compare", str(folder), "has simulations: REAL_DIR is what tokenflow-calibrate replay has written")
    labels = list(dict.fromkeys(label for runs in theirs for label in runs))
    partner = _partners(ours, labels)
    if not partner:
        why = f"has {', '.join(ours)}; measured were {', '.join(labels)}: none of them is in both"
        raise BadInput("compare", str(simulated), why)
    pairs = [Pair(label, ours[mine], [runs[label] for runs in theirs if label in runs]) for label, mine in partner.items()]
    for pair in pairs:
        for run in (pair.simulated, *pair.measured):
            run.check_numbers([*(metric.key for metric in METRICS), *FIDELITY])
        for run in pair.measured:
            if pair.simulated.asked.shape != run.asked.shape or not np.allclose(pair.simulated.asked, run.asked, rtol=0, atol=1e-9):
                raise BadInput("compare", str(run.folder), f"is of other requests than {pair.simulated.folder}")
    used = {pair.simulated.label for pair in pairs}
    alone = [f"only simulated: {label}" for label in ours if label not in used]
    alone += [f"only measured: {label}" for label in labels if label not in partner]
    statuses = dict.fromkeys(str(run.facts.get("status", "simulated")) for pair in pairs for run in pair.measured)
    return Comparison(pairs, alone, "; ".join(statuses))


def _partners(ours: Mapping[str, Saved], labels: Sequence[str]) -> dict[str, str]:
    """Of each measured policy the simulated one, in the simulator's order; the policy vllm simulates vLLM's own scheduler.

    Whatever a server runs whose policy nobody named, one simulation is meant to be it.
    """
    if len(ours) == 1 and labels == [SERVER]:
        return {SERVER: next(iter(ours))}
    found = {label: label for label in labels if label in ours}
    if STOCK in labels and STOCK not in ours and ITS_POLICY in ours:
        found[STOCK] = ITS_POLICY
    order = list(ours)
    return dict(sorted(found.items(), key=lambda pair: (order.index(pair[1]), pair[0] != STOCK)))


def facts(found: Comparison) -> dict[str, Any]:
    """What compare.json holds."""
    return {
        "status": found.status,
        "limits_kept": sum(found.judged), "limits": len(found.judged),
        "policies": {pair.label: {
            "simulated": str(pair.simulated.folder), "simulated_as": pair.simulated.label,
            "measured": [str(run.folder) for run in pair.measured],
            "metrics": {row.metric.key: {"predicted": row.predicted, "measured": row.measured, "low": row.low, "high": row.high,
                                         "error": row.error, "limit": row.metric.limit or None, "ok": row.ok} for row in pair.rows},
            "distances": {name: asdict(each) for name, each in pair.distances.items()}, **pair.fidelity,
        } for pair in found.pairs},
        "effects": {label: {effect.metric.key: {
            "kind": "difference" if effect.is_difference else "ratio", "predicted": effect.predicted, "measured": effect.measured,
            "agrees": effect.agrees} for effect in each} for label, each in found.effects.items()},
        "effect_rule": EFFECT_RULE,
        "winner": {name: each.winner for name, each in found.winners.items() if each is not None},
        "winner_rule": RULE,
        "alone": list(found.alone),
    }
