"""The links as the audit sees them: it follows on its own, phase by phase, what the plans have queued."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from math import inf

from policies.api import Floats

from .engine import Engine
from .machine import Machine
from .run import Run

_WAYS = ("h2d", "d2h")
_SAME_S = 1e-6
_NOTHING_S = 1e-12      # of copying: what rounding leaves


@dataclass
class Traffic:
    """Both directions, h2d first: blocks ordered, seconds of copying alone still queued, seconds spent, end of the last copy."""

    blocks: list[float] = field(default_factory=lambda: [0.0, 0.0])
    left_s: list[float] = field(default_factory=lambda: [0.0, 0.0])
    busy_s: list[float] = field(default_factory=lambda: [0.0, 0.0])
    over_s: list[float] = field(default_factory=lambda: [0.0, 0.0])
    now_s: float = 0.0

    def order(self, machine: Machine, *blocks: int) -> None:
        """Queue so many blocks each way. Everything before is followed up to now."""
        for way, (block_s, _) in enumerate(_paces(machine)):
            self.blocks[way] += blocks[way]
            self.left_s[way] += blocks[way] * block_s

    def follow(self, machine: Machine, until_s: float) -> None:
        """What crosses until then."""
        paces = _paces(machine)
        while self.now_s < until_s and (busy := [way for way in (0, 1) if self.left_s[way] > _NOTHING_S]):
            rates = {way: paces[way][1] if len(busy) == 2 else 1.0 for way in busy}
            phase_s = min(until_s - self.now_s, *(self.left_s[way] / rate for way, rate in rates.items()))
            self.now_s += phase_s
            for way, rate in rates.items():
                self.left_s[way] -= phase_s * rate
                self.busy_s[way] += phase_s
                self.over_s[way] = self.now_s
        self.now_s = until_s

    def to_the_end(self, machine: Machine) -> Traffic:
        """As it will be when all that is queued is across."""
        future = copy.deepcopy(self)
        future.follow(machine, inf)
        return future


def _paces(machine: Machine) -> list[tuple[float, float]]:
    """Of each direction: seconds a block alone, and the share of its pace that it keeps beside the other."""
    rates = ((machine.h2d_bytes_per_s, machine.duplex_h2d), (machine.d2h_bytes_per_s, machine.duplex_d2h))
    alone = [machine.block_copy_s(rate) for rate, _ in rates]
    return [(s, s / machine.block_copy_s(rate * share) if s else 1.0) for s, (rate, share) in zip(alone, rates)]


def links_broken(engine: Engine, traffic: Traffic) -> str:
    """The numbers where the links are not as this traffic says, "" when they are."""
    machine, now = engine.machine, engine.env.now
    traffic.follow(machine, now)
    future, written = traffic.to_the_end(machine), engine.write_through.tokens / machine.block_size
    for way, (name, more) in enumerate(zip(_WAYS, (0.0, written))):
        link, (block_s, _) = getattr(engine, name), _paces(machine)[way]
        blocks, busy_s = future.blocks[way] + more, future.busy_s[way] + more * block_s
        if abs(link.blocks - blocks) > _SAME_S * (1 + blocks):
            return f"{name}: {link.blocks} blocks, copies ordered {blocks}"
        if abs(link.busy_s - busy_s) > _SAME_S * (1 + busy_s):
            return f"{name}: busy {link.busy_s} s for {link.blocks} blocks, followed {busy_s} s"
        if abs(max(link.free_s, now) - max(future.over_s[way], now)) > _SAME_S:
            return f"{name}: free at {link.free_s}, the last copy is across at {future.over_s[way]}"
        if link.busy_s > max(now, link.free_s) + _SAME_S:
            return f"{name}: busy {link.busy_s} s, now {now}, free at {link.free_s}"
    return ""


def writing_broken(engine: Engine, run: Run, made: Floats) -> str:
    """The numbers where a run writes what does not exist, or more than the link has time for; `made`: tokens a step, by row."""
    q, machine, rows = engine.requests, engine.machine, engine.copies.rows
    if run.unwritten is None:
        return ""
    waiting = q.computed_tokens[rows] - q.host_tokens[rows] + made[rows] * len(run.ends_s)
    exists = (run.unwritten >= made[rows]) & (run.unwritten <= waiting + 1e-6)
    block_s, share = _paces(machine)[1]
    written_s = float((waiting - run.unwritten).sum()) * block_s / machine.block_size
    end_s = float(run.ends_s[-1])
    begin_s = min(max(engine.d2h.free_s, run.start_s), end_s)
    beside_s = max(min(engine.h2d.free_s, end_s) - begin_s, 0.0)
    most_s = end_s - begin_s - (1.0 - share) * beside_s
    fine = exists.all() and written_s <= most_s + _SAME_S
    return "" if fine else f"left {run.unwritten.tolist()} of {waiting.tolist()}, {written_s} s in {most_s} s"
