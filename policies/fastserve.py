"""FastServe (arXiv 2305.05920): skip-join multi-level feedback queues and proactive swapping. Control: preemption without buffers.

The batch is whoever stands first in the queues and fits in memory; others make way from the last one on, their KV goes to the
host, and comes back by a load. The queues know service received, not buffers or rates: they push back exactly those with most to
read. [R] marks what FastServe leaves open or our engine has otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import numpy as np

from .api import Bools, Event, Ints, Plan, Residency, View
from .levels import Levels
from .scene import Scene


@dataclass
class FastServe:
    quantum_s: float = 0.01             #: of the first queue; each next one has twice the quantum
    starve_s: float = 3.0               #: who has not run for so long goes back to the first queue
    starve_steps: int = 1000            #: steps between two looks for the starved
    max_batch_size: int | None = None   #: requests of a batch; None: as many as the machine seats
    host_reserve: float = 0.1           #: no newcomers while less than this share of the host pool is free
    proactive: bool = True              #: keep a free block for each of the batch, and load ahead of need; False: swap on need
    max_prefill_tokens: int = 16_384    #: of one batch; a longer prompt goes alone

    engine_step_tokens = 1 << 20        #: the engine's step limit when the user sets none: the policy bounds its batches itself

    _levels: Levels = field(init=False, repr=False, compare=False)
    _looked_at: int = field(init=False, repr=False, compare=False, default=0)       # for the starved, steps then

    def __post_init__(self) -> None:
        for name in ("quantum_s", "starve_s", "starve_steps", "max_prefill_tokens"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name}={getattr(self, name)}: must be a finite number above zero")
        if self.max_batch_size is not None and self.max_batch_size <= 0:
            raise ValueError(f"max_batch_size={self.max_batch_size}: must be above zero")
        if not 0 <= self.host_reserve <= 1:
            raise ValueError(f"host_reserve={self.host_reserve}: is a share, from 0 to 1")
        self._levels = Levels(self.quantum_s)

    def plan(self, view: View) -> Plan:
        levels, scene = self._levels, Scene(view)
        levels.observe(view)
        steps = view.decode_steps + view.prefill_steps
        if steps - self._looked_at >= self.starve_steps:
            self._looked_at = steps
            levels.promote(np.ones(len(view.id), np.bool_), view.now_s - self.starve_s)
        order = levels.order()
        may = self._may_run(scene)
        batch, reserve = self._batch(scene, order[may[order]])
        movable = self._make_way(scene, order, batch, reserve)
        free = self._bring(scene, order, batch, reserve)
        decode = self._decoders(scene, order, free)
        brought = np.array([*scene.load, *(row for row, _ in scene.prefill)], np.int64)
        idle = np.ones(len(view.id), np.bool_)
        idle[decode] = idle[brought] = False
        waits = idle.any() or len(brought) or scene.leave or scene.give_up or scene.evicting or scene.loading
        rivals = idle & may
        rivals[batch] = False
        wake_at_s = inf
        if movable and rivals.any() and len(decode):
            wake_at_s = view.now_s + levels.until_overtaken_s(decode, int(levels.level[rivals].min()))
        plan = scene.plan(store=False, mixed=True, until=Event.ANY if waits else Event.ARRIVAL,
                          wake_at_s=max(wake_at_s, float(np.nextafter(view.now_s, inf))),
                          wake_after_steps=self.starve_steps - (steps - self._looked_at) if idle.any() else 0)
        return plan._replace(decode=view.id[np.sort(decode)])

    # ---- the batch

    def _may_run(self, scene: Scene) -> Bools:
        """Marks, shape (n,): not under way to or from the host, nor a newcomer while the host is nearly full."""
        view = scene.view
        may: Bools = view.residency <= Residency.HOST
        if view.host_free_blocks < self.host_reserve * view.host_total_blocks:
            may[scene.waiting] = False
        return may

    def _batch(self, scene: Scene, rows: Ints) -> tuple[Ints, int]:
        """How many of these rows, first to last, are to run, and the blocks to keep free beside them."""
        view = scene.view
        prompts = np.where(scene.left[rows] > 1, scene.left[rows], 0)
        tokens = prompts.cumsum()
        enough = (tokens > self.max_prefill_tokens) & (tokens > prompts)
        rows = rows[: int(enough.argmax()) if enough.any() else len(rows)][: self._most(scene)]
        needs = -(-(view.prompt_tokens + view.output_tokens + 1)[rows] // view.block_size)
        spared = int(self.proactive)
        room = view.total_blocks - scene.landing_blocks
        fits = int((needs + spared).cumsum().searchsorted(room, side="right"))
        if not fits and len(rows):                              # as large as the pool, alone
            return rows[:1], 0
        return rows[:fits], spared * fits

    def _most(self, scene: Scene) -> int:
        seats = scene.view.max_seqs - scene.loading
        return seats if self.max_batch_size is None else min(self.max_batch_size, seats)

    # ---- making way

    def _make_way(self, scene: Scene, order: Ints, batch: Ints, reserve: int) -> bool:
        """Residents outside the batch leave, the last first, until it fits and the reserve is free. False: the host is full."""
        view, at, movable = scene.view, scene.view.residency, True
        inside = np.zeros(len(view.id), np.bool_)
        inside[batch] = True
        coming = batch[at[batch] != Residency.GPU]
        needs = sum(scene.whole_blocks(row) for row in coming.tolist())
        grows = int(np.count_nonzero(scene.takes[scene.ready])) + scene.owed
        free = view.free_blocks + scene.evicting_blocks - needs - grows - reserve
        seats = scene.seats + scene.evicting - len(coming)
        others = order[(at[order] == Residency.GPU) & ~inside[order]][::-1]
        for row in others.tolist():
            if free >= 0 and seats >= 0:
                break
            if scene.left[row] > 1:
                scene.drop(row)
            elif scene.host_room >= scene.leaving_blocks + int(scene.blocks[row]):
                scene.evict(row)
            else:
                movable = False                                 # [R] it stays, and runs
                break
            free, seats = free + int(scene.blocks[row]), seats + 1
        going = scene.evicting_blocks + int(scene.blocks[scene.leave + scene.give_up].sum())
        residents = scene.staying(order[at[order] == Residency.GPU]).tolist()
        while going < scene.short and len(residents) > 1:       # [R] the next step must fit, host or not
            row = residents.pop()
            if scene.left[row] == 1 and scene.host_room >= scene.leaving_blocks + int(scene.blocks[row]):
                scene.evict(row)
            else:
                scene.drop(row)
            going += int(scene.blocks[row])
        return movable

    # ---- bringing requests onto the GPU

    def _bring(self, scene: Scene, order: Ints, batch: Ints, reserve: int) -> int:
        """Loads and prompts of the batch, as room comes free; if nobody left, loads ahead. Returns blocks left to grow into."""
        view, at = scene.view, scene.view.residency
        prompts = [row for row in batch.tolist() if at[row] == Residency.GPU and scene.left[row] > 1 and row not in scene.give_up]
        for row in batch[at[batch] != Residency.GPU].tolist():
            if not scene.fits(scene.whole_blocks(row)):
                break
            scene.take(scene.whole_blocks(row))
            if at[row] == Residency.HOST:
                scene.load.append(row)
            else:
                prompts.append(row)
        if self.proactive and not scene.leave and not scene.give_up and not scene.evicting:
            for row in order[at[order] == Residency.HOST].tolist():
                if row in scene.load:
                    continue
                if not scene.fits(scene.whole_blocks(row), reserve):
                    break
                scene.take(scene.whole_blocks(row))
                scene.load.append(row)
        scene.prefill_up_to(prompts, view.max_step_tokens - min(len(scene.ready), self._most(scene)), whole=False)
        return scene.free + int(np.count_nonzero(scene.takes[scene.staying(scene.ready)]))

    def _decoders(self, scene: Scene, order: Ints, free: int) -> Ints:
        """Everybody ready who stays, in order, up to a batch and to the blocks there are; who is here anyway runs as well."""
        rows = order[np.isin(order, scene.staying(scene.ready))]
        takes = scene.takes[rows]
        rows = rows[~takes | (takes.cumsum() <= max(free, 0))]
        return rows[: max(self._most(scene) - len(scene.prefill), 0)]
