"""What Andes and its authors' code have in common: when to think, and carrying out what was thought, in SGLang's loop.

Prompts go first and whole; victims lose their KV and compute it again (as TokenFlow's authors ran Andes), or go to the host.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import inf

import numpy as np

from .api import Event, Floats, Ints, Plan, Residency, View, blocks_for, marked
from .averages import Averages
from .scene import Scene

_GRAIN = 1e-9       # of QoE: engines whose clocks differ in the last bit must rank alike


@dataclass
class Room:
    """Blocks and seats that are free, or will be, once everybody here has grown until the next decision."""

    blocks: int
    seats: int


@dataclass
class AndesLoop(ABC):
    """Fields of both; `_replan` says who comes and who leaves, `_pressed` whether not all can be served."""

    horizon_s: float = 10.0             #: dt: how far ahead QoE is predicted (the code's 10 s)
    expected_ttft_s: float = 1.0        #: of a reader without a target of its own, as in the traces of Andes' artifact
    replan_steps: int = 10              #: decode steps between two decisions: the code's 10; the paper decides before every step
    watermark: float = 0.9              #: share of GPU memory in use below which everybody is served
    swap: bool = False                  #: victims' KV goes to the host, as long as it has room, and comes back
    max_prefill_tokens: int = 16_384    #: of one prefill batch, as SGLang's

    engine_step_tokens = 1 << 20        #: the engine's step limit when the user sets none: the policy bounds its batches itself

    _learnt: Averages = field(init=False, repr=False, compare=False, default_factory=Averages)
    _coming: list[int] = field(init=False, repr=False, compare=False, default_factory=list)     # ids to bring, best first
    _paused: list[int] = field(init=False, repr=False, compare=False, default_factory=list)     # ids of residents that rest
    _planned_at: int = field(init=False, repr=False, compare=False, default=-(1 << 30))         # decode steps then
    _preempted: int = field(init=False, repr=False, compare=False, default=0)                   # to let others in, so far

    def __post_init__(self) -> None:
        for name in ("horizon_s", "replan_steps", "watermark", "max_prefill_tokens"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name}={getattr(self, name)}: must be a finite number above zero")
        if not 0 <= self.expected_ttft_s < inf:
            raise ValueError(f"expected_ttft_s={self.expected_ttft_s}: must be a finite number not below zero")
        if self.watermark > 1:
            raise ValueError(f"watermark={self.watermark}: is a share, at most 1")

    def plan(self, view: View) -> Plan:
        self._learnt.observe(view)
        scene = Scene(view)
        absent, slow = len(scene.waiting) + len(scene.away) + len(scene.dropped), self._slow(view)
        if absent or slow or scene.short > 0:
            if self._due(scene):
                self._planned_at = view.decode_steps
                self._replan(scene)
        else:
            self._coming, self._paused = [], []
        self._bring(scene)
        absent -= len(scene.load) + len({row for row, _ in scene.prefill} - set(scene.midway.tolist()))
        wakes = absent > 0 or slow
        waits = wakes or scene.prefill or scene.leave or scene.give_up or scene.evicting
        steps = max(self.replan_steps - (view.decode_steps - self._planned_at), 1) if wakes else 0
        plan = scene.plan(store=False, mixed=False, until=Event.ANY if waits else Event.ARRIVAL, wake_at_s=inf,
                          wake_after_steps=steps)
        if self._paused:
            plan = plan._replace(decode=plan.decode[~marked(plan.decode, np.array(self._paused, np.int64))])
        if len(plan.drop) and not (len(plan.decode) or plan.prefill or len(plan.load)):     # room was made; for whom, is next
            plan = plan._replace(wake_at_s=float(np.nextafter(view.now_s, inf)))
        return plan

    # ---- when to think

    def _due(self, scene: Scene) -> bool:
        view, since = scene.view, scene.view.decode_steps - self._planned_at
        rests = marked(view.id, np.array(self._paused, np.int64))[scene.ready]
        rest = int(np.count_nonzero(rests))                         # whoever ran beside them may be done
        busy = len(scene.ready) - rest + len(scene.midway) + scene.loading + scene.evicting
        return scene.short > 0 or not busy or since >= self.replan_steps or (since > 0 and not self._pressed(view))

    def _slow(self, view: View) -> bool:
        """Serving everybody is slower than the fastest reader reads."""
        return False

    @abstractmethod
    def _pressed(self, view: View) -> bool:
        """Not everybody can be served."""

    @abstractmethod
    def _replan(self, scene: Scene) -> None:
        """Say who comes, who leaves and who rests."""

    # ---- what it takes

    def _needs(self, view: View) -> Ints:
        """Blocks of each request, served until the next decision, shape (n,) [R: Andes packs the context of now]."""
        length = view.prompt_tokens + view.output_tokens
        return blocks_for(np.minimum(length + self.replan_steps, view.prompt_tokens + view.max_tokens), view.block_size)

    def _room(self, scene: Scene, residents: Ints, needs: Ints) -> Room:
        growth = int((needs[residents] - scene.blocks[residents]).sum())
        return Room(scene.view.free_blocks + scene.evicting_blocks - growth, scene.seats + scene.evicting)

    # ---- making way

    def _shrink(self, scene: Scene, room: Room, spare: list[int], needs: Ints) -> list[int]:
        """Residents grow: some of the spare leave, whoever comes. Returns who is left of them."""
        while room.blocks < 0 and spare:
            room.blocks, room.seats = room.blocks + int(needs[spare[0]]), room.seats + 1
            self._preempt(scene, spare[0], must=True)
            spare = spare[1:]
        return spare

    def _make_way(self, scene: Scene, room: Room, admits: list[int], spare: list[int], needs: Ints) -> None:
        """Each admit takes free blocks, or as many of the spare as it still needs. Who is not in the way stays."""
        coming: list[int] = []
        for row in admits:
            need = int(needs[row])
            while (room.blocks < need or room.seats <= 0) and spare and self._may_preempt:
                if not self._preempt(scene, spare[0], must=False):
                    break
                room.blocks, room.seats, self._preempted = room.blocks + int(needs[spare[0]]), room.seats + 1, self._preempted + 1
                spare = spare[1:]
            if room.blocks < need or room.seats <= 0:
                break
            room.blocks, room.seats = room.blocks - need, room.seats - 1
            coming.append(int(scene.view.id[row]))
        self._coming = coming

    @property
    def _may_preempt(self) -> bool:
        return True

    def _preempt(self, scene: Scene, row: int, must: bool) -> bool:
        """Order a resident off the GPU. False when it stays: the host is full."""
        if self.swap and scene.left[row] == 1:
            if scene.host_room >= scene.leaving_blocks + int(scene.blocks[row]):
                scene.evict(row)
                return True
            if not must:
                return False
        scene.drop(row)
        return True

    def _survive(self, scene: Scene, residents: list[int]) -> None:
        """The next decode step must fit: the worth least leave, the last one stays."""
        going = scene.evicting_blocks + int(scene.blocks[scene.leave + scene.give_up].sum())
        while going < scene.short and len(residents) > 1:
            row = residents.pop(0)
            self._preempt(scene, row, must=True)
            going += int(scene.blocks[row])

    # ---- bringing requests onto the GPU

    def _bring(self, scene: Scene) -> None:
        """Loads and the prefill batch: who is to come, best first, as room comes free."""
        view = scene.view
        midway = scene.staying(scene.midway).tolist()
        limit = min(self.max_prefill_tokens, view.max_step_tokens) - int(scene.left[midway].sum())
        batch: list[int] = []
        brought = set()
        for row in scene.rows_left(self._coming).tolist():
            if view.residency[row] not in (Residency.NONE, Residency.HOST):
                continue
            if not scene.fits(scene.whole_blocks(row)):
                break
            if view.residency[row] == Residency.HOST:
                scene.load.append(row)
            else:
                if (batch or midway) and limit < scene.left[row]:
                    break
                limit -= int(scene.left[row])
                batch.append(row)
            scene.take(scene.whole_blocks(row))
            brought.add(int(view.id[row]))
        self._coming = [id for id in self._coming if id not in brought]
        scene.prefill_up_to(midway + batch, view.max_step_tokens, whole=False)


def grained(qoe: Floats) -> Floats:
    """Differences of QoE that are none to speak of, made none."""
    rounded: Floats = np.rint(qoe / _GRAIN) * _GRAIN
    return rounded
