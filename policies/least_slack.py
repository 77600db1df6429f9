"""Control: whoever has least left to read is on the GPU. TokenFlow without utility, bound on rates or safe victims.

Every `interval_s`, and at once when memory runs out, all admitted and waiting requests are ranked by slack, newcomers at 0,
ties by arrival, and GPU memory is filled in that order; residents younger than an interval stay. TokenFlow's KV tier below:
written through, loaded or recomputed, whichever is faster; victims stay while the host pool is full.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import numpy as np

from .api import Bools, Event, Ints, Plan, Residency, View
from .averages import Averages
from .scene import Scene, ascending


@dataclass
class LeastSlack:
    interval_s: float = 1.0             #: between two rankings
    fill: float = 0.95                  #: share of GPU memory that a ranking fills; the rest is for growth
    overcommit: float = 0.95            #: share of GPU + host memory that admitted requests may take at their full lengths
    max_prefill_tokens: int = 16_384    #: of one prefill batch, as SGLang's

    engine_step_tokens = 1 << 20        #: the engine's step limit when the user sets none: the policy bounds its batches itself

    _learnt: Averages = field(init=False, repr=False, compare=False, default_factory=Averages)
    _next_rank_s: float = field(init=False, repr=False, compare=False, default=0.0)
    _coming: list[int] = field(init=False, repr=False, compare=False, default_factory=list)     # ids that room was made for

    def __post_init__(self) -> None:
        for name in ("interval_s", "fill", "overcommit", "max_prefill_tokens"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name}={getattr(self, name)}: must be a finite number above zero")

    def plan(self, view: View) -> Plan:
        self._learnt.observe(view)
        scene = Scene(view)
        absent = len(scene.waiting) + len(scene.away) + len(scene.dropped)
        if scene.short > 0 or absent or len(scene.midway):
            newcomers = self._within_bound(scene)
            idle = not len(scene.ready) and not len(scene.midway) and not scene.loading and not scene.evicting
            if scene.short > 0 or view.now_s >= self._next_rank_s or idle:
                self._next_rank_s = view.now_s + self.interval_s
                self._rank(scene, newcomers)
            self._bring(scene, newcomers)
        absent -= len(scene.load) + len({row for row, _ in scene.prefill} - set(scene.midway.tolist()))
        waits = absent > 0 or scene.prefill or scene.leave or scene.evicting
        now_s = float(np.nextafter(view.now_s, inf))
        wake_at_s = now_s if scene.give_up else max(self._next_rank_s, now_s) if absent > 0 else inf
        return scene.plan(store=True, mixed=False, until=Event.ANY if waits else Event.ARRIVAL | Event.PREFILLED,
                          wake_at_s=wake_at_s)

    def _within_bound(self, scene: Scene) -> Ints:
        """Newcomers that GPU and host together have room for, fully grown; in order of arrival."""
        view = scene.view
        demand = view.prompt_tokens + view.max_tokens
        pool = self.overcommit * (self.fill * view.total_blocks + view.host_total_blocks) * view.block_size
        fits = demand[scene.admitted].sum() + demand[scene.waiting].cumsum() <= pool
        if len(fits) and not scene.admitted.any():
            fits[0] = True                          # larger than the bound, alone
        newcomers: Ints = scene.waiting[: int(np.count_nonzero(fits))]
        return newcomers

    # ---- ranking

    def _rank(self, scene: Scene, newcomers: Ints) -> None:
        """Whom the next interval belongs to: the others leave, fullest buffer first, as far as the absent need their room."""
        chosen, coming = self._choose(scene, newcomers)
        spare = scene.ready[~chosen[scene.ready]]
        victims = ascending(spare, -scene.slack_s).tolist()
        free, seats = scene.free + self._leaving_blocks(scene), scene.seats + scene.evicting
        self._coming = []
        for row in coming:
            need = scene.whole_blocks(row)
            while victims and (free < need or seats <= 0) and self._offload(scene, victims[0]):
                free, seats = free + int(scene.blocks[victims.pop(0)]), seats + 1
            if free < need or seats <= 0:
                break
            free, seats = free - need, seats - 1
            self._coming.append(int(scene.view.id[row]))
        if scene.short > 0:
            self._make_room(scene)

    def _choose(self, scene: Scene, newcomers: Ints) -> tuple[Bools, list[int]]:
        """Marks of the residents that keep their place, shape (n,), and the absent that get one, in order of slack."""
        view = scene.view
        young = view.now_s - view.moved_s[scene.ready] < self.interval_s
        fixed = np.concatenate((scene.ready[young], scene.midway, (view.residency == Residency.LOADING).nonzero()[0]))
        chosen = np.zeros(len(view.id), np.bool_)
        chosen[fixed] = True
        room = int(self.fill * view.total_blocks) - int(scene.blocks[fixed].sum()) - scene.owed
        room, seats = room - int(np.count_nonzero(scene.takes[scene.ready[young]])), view.max_seqs - len(fixed)
        absent = np.zeros(len(view.id), np.bool_)
        absent[scene.away] = absent[scene.dropped] = absent[newcomers] = True
        coming: list[int] = []
        blocked = False
        rest = np.sort(np.concatenate((scene.ready[~young], absent.nonzero()[0])))
        for row in ascending(rest, scene.slack_s).tolist():
            need = scene.whole_blocks(row) if absent[row] else int(scene.blocks[row]) + int(scene.takes[row])
            alone = not len(fixed) and not coming and not chosen.any()      # larger than the share to fill
            if not alone and (need > room or seats <= 0):
                blocked = blocked or bool(absent[row])
            elif absent[row] and blocked:           # a smaller one that overtakes would be young, and in its way, for ever
                continue
            else:
                room, seats, chosen[row] = room - need, seats - 1, True
                if absent[row]:
                    coming.append(row)
        return chosen, coming

    @staticmethod
    def _leaving_blocks(scene: Scene) -> int:
        return int(scene.blocks[scene.view.residency == Residency.EVICTING].sum())

    @staticmethod
    def _offload(scene: Scene, row: int) -> bool:
        """False when it has to stay: the host is full even without the copies of residents."""
        if scene.host_room < int(scene.blocks[[*scene.leave, row]].sum()):
            return False
        scene.evict(row)
        return True

    def _make_room(self, scene: Scene) -> None:
        """The next decode step does not fit: who has most to read leaves, the young last, for one more step's growth."""
        view = scene.view
        going = self._leaving_blocks(scene) + int(scene.blocks[scene.leave].sum())
        rows = ascending(scene.staying(scene.ready), -scene.slack_s)
        young = view.now_s - view.moved_s[rows] < self.interval_s
        order = [*rows[~young].tolist(), *rows[young].tolist(), *scene.midway[::-1].tolist()]
        while going < scene.short + len(scene.ready) and len(order) > 1:
            row = order.pop(0)
            if scene.left[row] > 1 or not self._offload(scene, row):
                scene.drop(row)
            going += int(scene.blocks[row])

    # ---- bringing requests onto the GPU

    def _bring(self, scene: Scene, newcomers: Ints) -> None:
        """Loads and the prefill batch: those that room was made for, then, while room is left, the rest by slack."""
        view = scene.view
        coming = [row for row in scene.rows_left(self._coming).tolist() if self._is_absent(scene, row)]
        promised = set(coming)
        rest = np.sort(np.concatenate((scene.away, scene.dropped, newcomers)))
        order = coming + [row for row in ascending(rest, scene.slack_s).tolist() if row not in promised]
        recompute_s = self._learnt.prefill_token_s(view) * view.computed_tokens
        load_s = view.cost.load_s(1.0) * view.computed_tokens
        midway = scene.staying(scene.midway).tolist()
        limit = min(self.max_prefill_tokens, view.max_step_tokens) - int(scene.left[midway].sum())
        batch: list[int] = []
        brought: set[int] = set()
        for row in order:
            if not scene.fits(scene.whole_blocks(row), 0 if row in promised else len(scene.ready)):
                break
            if view.residency[row] == Residency.HOST:
                if load_s[row] > recompute_s[row]:
                    scene.drop(row)                 # its prefill is in the next plan
                else:
                    scene.load.append(row)
                    brought.add(row)
            else:
                if (batch or midway) and limit < scene.left[row]:
                    break
                limit -= int(scene.left[row])
                batch.append(row)
                brought.add(row)
            scene.take(scene.whole_blocks(row))
        self._coming = [int(view.id[row]) for row in coming if row not in brought]
        self._fill_batch(scene, midway, batch)

    @staticmethod
    def _is_absent(scene: Scene, row: int) -> bool:
        return bool(scene.view.residency[row] in (Residency.NONE, Residency.HOST))

    @staticmethod
    def _fill_batch(scene: Scene, midway: list[int], batch: list[int]) -> None:
        """Whole prompts, but for one that is longer than a step."""
        view, limit, room = scene.view, scene.view.max_step_tokens, scene.free + scene.owed
        for row in midway + batch:
            tokens = min(int(scene.left[row]), limit)
            if scene.blocks[row]:                   # half done: its blocks are owed, not taken yet
                need = -(-(int(view.computed_tokens[row]) + tokens) // view.block_size) - int(scene.blocks[row])
                if need > room:
                    return
                room -= need
            if tokens > 0:
                scene.prefill.append((row, tokens))
            limit -= tokens
