"""The winner of a search beside the defaults, on the runs that were held out, and what can be said of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ..intervals import Estimate
from .objectives import BETTER, SAME, UNCLEAR, WORSE, Objective, verdict
from .tune import Found, Tuning


@dataclass(frozen=True)
class Compared:
    """One objective on one workload, seed by seed on the same requests."""

    workload: str
    objective: Objective
    default: Estimate
    winner: Estimate
    change: Estimate            #: the winner's less the defaults', paired

    @property
    def verdict(self) -> str:
        return verdict(self.objective, self.change)


def compared(tuning: Tuning, found: Found) -> list[Compared]:
    """Every objective on every held-out workload; [] where one of the two has no numbers."""
    if not found.winner:
        return []
    made = []
    for workload, own, base in zip(tuning.workloads, found.held_out[found.winner], found.held_out[0]):
        if base.failed:
            return []
        for objective in tuning.objectives:
            key = objective.key
            made.append(Compared(workload or tuning.own, objective, base.mean(key), own.mean(key), own.change(base, key)))
    return made


def conclusion(tuning: Tuning, found: Found) -> str:
    """In one or two sentences, plainly."""
    if found.winner is None:
        return "Nobody wins: on the held-out runs neither the defaults nor anyone of the front keeps the limits."
    if not found.winner:
        others = len(found.held_out) - 1
        out = len(found.out)
        why = "; {} of {} others are out, trial {} for one: {}".format(out, others, *next(iter(found.out.items()))) if out else ""
        return f"The defaults win: nothing that was tried is better by the rule{why}."
    rows = compared(tuning, found)
    several = len(tuning.workloads) > 1

    def named(verdict: str) -> str:
        return ", ".join(row.objective.key + (f" on {row.workload}" if several else "") for row in rows if row.verdict == verdict)

    said = {verdict: names for verdict in (BETTER, WORSE, SAME, UNCLEAR) if (names := named(verdict))}
    seeds = len(tuning.held_out_seeds)
    over = f"paired 95 % intervals over {seeds} held-out seeds" if seeds > 1 else "one held-out seed: no interval"
    if 0 in found.out:
        return f"Trial {found.winner} wins. The defaults do not keep the limits: {found.out[0]}."
    if BETTER not in said:
        return f"Trial {found.winner} has the best mean rank, but it is not better than the defaults in any objective ({over})."
    parts = [f"better than the defaults in {said[BETTER]}"]
    parts += [f"worse, within the limits, in {said[WORSE]}"] if WORSE in said else []
    parts += [f"the same in {said[SAME]}"] if SAME in said else []
    parts += [f"unclear in {said[UNCLEAR]}"] if UNCLEAR in said else []
    return f"Trial {found.winner} wins: {'; '.join(parts)} ({over})."


def number(value: float) -> str:
    """To four digits, thousands in full."""
    return f"{float(f'{value:.4g}'):,.10g}"
