"""Andes (arXiv 2404.16283v2): serve those whose quality of experience gains most per token of memory.

Every `replan_steps`, while memory or speed is short, everybody is ranked by the QoE that being served for the next `horizon_s`
would gain over waiting, per token of context, and memory is filled in that order; whoever falls out makes way, as far as
newcomers need the room and are worth it. Who has waited long gains ever less, so that Andes serves them last. [R] marks our
resolution of what the paper leaves open.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

import numpy as np

from .andes_loop import AndesLoop, Room, grained
from .api import Bools, Floats, Ints, Plan, Residency, View
from .lateness import Lateness
from .scene import Scene


class Selection(NamedTuple):
    """Rows, best first; what each gains in QoE, and whether it is to be served; how many may run together."""

    rows: Ints
    gain: Floats
    chosen: Bools
    size: int


@dataclass
class Andes(AndesLoop):
    batch_sizes: int = 8                #: sizes tried between B_min and B_max; the paper tries all [R]
    refiner: bool = True                #: admit only who gains more QoE than is lost for it (v2)
    preemption_cap: float | None = None     #: preemptions to let others in, per request so far, at most (v1: 1); None: no cap

    _readers: Lateness = field(init=False, repr=False, compare=False)
    _seen: int = field(init=False, repr=False, compare=False, default=0)                        # requests so far
    _newest: int = field(init=False, repr=False, compare=False, default=-1)                     # the last one's id

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.batch_sizes < inf:
            raise ValueError(f"batch_sizes={self.batch_sizes}: must be a finite number above zero")
        if not 0 <= (self.preemption_cap or 0.0) < inf:
            raise ValueError(f"preemption_cap={self.preemption_cap}: must be a finite number not below zero")
        self._readers = Lateness(self.expected_ttft_s)

    def plan(self, view: View) -> Plan:
        self._seen += len(view.id) - int(view.id.searchsorted(self._newest, side="right"))
        self._newest = max(int(view.id[-1]), self._newest)
        return super().plan(view)

    def _slow(self, view: View) -> bool:
        seqs = min(len(view.id), view.max_seqs)
        return not self._fast_enough(view, seqs, float((view.prompt_tokens + view.output_tokens).mean()))

    @staticmethod
    def _fast_enough(view: View, seqs: int, length: float) -> bool:
        """So many requests of this mean length decode as fast as the fastest reader reads."""
        return _step_s(view, seqs, length) * float(view.consumption_rate.max()) <= 1

    def _pressed(self, view: View) -> bool:
        """Not everybody can be served: memory, seats or speed."""
        enough = self.watermark * view.total_blocks
        return len(view.id) > view.max_seqs or int(self._needs(view).sum()) > enough or self._slow(view)

    def _replan(self, scene: Scene) -> None:
        view, needs, pressed = scene.view, self._needs(scene.view), self._pressed(scene.view)
        self._readers.observe(view)
        best = self._select(scene, needs, pressed)
        here = view.residency[best.rows] == Residency.GPU
        admits, residents = best.rows[best.chosen & ~here], best.rows[here][::-1]           # worth least first
        room = self._room(scene, residents, needs)
        spare = self._shrink(scene, room, best.rows[here & ~best.chosen][::-1].tolist(), needs)
        if self.refiner and pressed and len(admits) and len(residents):
            gain = np.zeros(len(view.id))
            gain[best.rows] = best.gain
            admits = admits[: self._worthwhile(scene, room, admits, spare, gain, needs)]
        self._make_way(scene, room, admits.tolist(), spare, needs)
        if scene.short > 0:
            self._survive(scene, scene.staying(residents).tolist())
        self._paused = view.id[scene.staying(best.rows[here])[best.size :]].tolist()

    # ---- the knapsack

    def _select(self, scene: Scene, needs: Ints, pressed: bool) -> Selection:
        """By gain per token of context, until memory is full: at the batch size whose chosen gain most together."""
        view, rows = scene.view, (scene.view.residency <= Residency.HOST).nonzero()[0]
        room = view.total_blocks - scene.evicting_blocks - scene.landing_blocks
        seats = view.max_seqs - scene.evicting - scene.loading
        length = (view.prompt_tokens + view.output_tokens)[rows]
        waits, starts_s = self._readers.qoe(rows, self.horizon_s, inf, 0.0), self._starts_s(scene, rows)
        packed = int(np.sort(needs[rows]).cumsum().searchsorted(room, side="right"))
        sizes = self._sizes(view, max(min(packed, seats), 1)) if pressed else [len(rows)]
        found: list[Selection] = []
        for size in sizes:
            speed = 1.0 / _step_s(view, size, float(length.mean())) / view.consumption_rate[rows]
            gain = grained(self._readers.qoe(rows, self.horizon_s, starts_s, speed) - waits)
            order = (-gain / length).argsort(kind="stable")
            chosen = needs[rows[order]].cumsum() <= room
            chosen[min(size, seats) :] = False
            found.append(Selection(rows[order], gain[order], chosen, size if size < sizes[-1] else len(rows)))
        return max(found, key=lambda each: float(each.gain[each.chosen].sum()))

    def _sizes(self, view: View, most: int) -> list[int]:
        """Batch sizes to try: from B_min, the largest that outruns the fastest reader, to B_max, the most that fit; ascending."""
        length = float((view.prompt_tokens + view.output_tokens).mean())
        low, high = 0, most
        while low < high:
            size = (low + high + 1) // 2
            low, high = (size, high) if self._fast_enough(view, size, length) else (low, size - 1)
        return sorted(set(np.linspace(max(low, 1), most, self.batch_sizes).astype(int).tolist()) | {most})

    def _starts_s(self, scene: Scene, rows: Ints) -> Floats:
        """When the tokens of each would come again, were it served from now on."""
        view, left = scene.view, scene.left[rows]
        starts_s = np.where(left > 1, left * self._learnt.prefill_token_s(view), 0.0)
        away = view.residency[rows] == Residency.HOST
        starts_s[away] = view.computed_tokens[rows[away]] * view.cost.load_s(1.0)
        return starts_s

    # ---- the refiner

    def _worthwhile(self, scene: Scene, room: Room, admits: Ints, spare: list[int], gain: Floats, needs: Ints) -> int:
        """How many of the admits, in this order, each gain more QoE than is lost for them, after those before.

        Lost is what their victims would have gained [R], and what a stall costs those who go on: for the admit's own prefill (or
        its load), and for bringing the victims back.
        """
        view, victims = scene.view, np.array(spare, np.int64)
        here = scene.staying(np.concatenate((scene.ready, scene.midway)))
        ongoing = np.concatenate((victims, here[~np.isin(here, victims)]))
        taken = _victims_for(room, needs[admits].cumsum(), needs[victims])
        back_s = np.concatenate(([0.0], self._absence_s(view, victims).cumsum()))
        stall_s = np.concatenate(([0.0], self._starts_s(scene, admits).cumsum() + back_s[taken[1:]]))[:, None]
        speed = 1.0 / _step_s(view, len(here), float((view.prompt_tokens + view.output_tokens)[here].mean()))
        qoe = self._readers.qoe(ongoing, self.horizon_s, stall_s, speed / view.consumption_rate[ongoing])
        lost = np.where(np.arange(len(ongoing)) < taken[:, None], gain[ongoing], qoe[0] - qoe).sum(axis=1)
        loses = gain[admits] <= grained(np.diff(lost))
        return int(loses.argmax()) if loses.any() else len(admits)

    def _absence_s(self, view: View, rows: Ints) -> Floats:
        """Seconds that preempting these and bringing them back will take."""
        if self.swap:
            return np.asarray(view.computed_tokens[rows] * (view.cost.store_s(1.0) + view.cost.load_s(1.0)), np.float64)
        return np.asarray((view.prompt_tokens + view.output_tokens)[rows] * self._learnt.prefill_token_s(view), np.float64)

    @property
    def _may_preempt(self) -> bool:
        return self.preemption_cap is None or self._preempted < self.preemption_cap * self._seen


def _step_s(view: View, seqs: int, length: float) -> float:
    """Seconds of a decode step of so many requests of this mean length."""
    return view.cost.step_s(seqs, min(seqs * length, view.total_blocks * view.block_size), 0.0, seqs)


def _victims_for(room: Room, needed: Ints, gives: Ints) -> Ints:
    """How many of the spare the first 0, 1, 2, ... admits take together, who need and give so many blocks."""
    blocks = np.concatenate(([0], gives.cumsum())).searchsorted(needed - room.blocks)
    taken = np.maximum(blocks, np.arange(1, len(needed) + 1) - room.seats)
    return np.concatenate(([0], np.clip(taken, 0, len(gives))))
