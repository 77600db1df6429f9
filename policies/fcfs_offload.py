"""Control: SGLang whose victims keep their place in the queue and their KV on the host, instead of computing it again.

Everybody's KV is written through; a victim comes back by a load, in order of arrival, when its context and some decode steps
of everyone fit; newcomers wait as long as anyone is on the host. With the host pool full, victims lose their KV. It separates
what a host tier gains from what buffer-aware scheduling gains.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from .api import NOBODY, Event, Ints, Plan, Residency, View
from .scene import Scene
from .sglang import Batch, SGLang


@dataclass
class FcfsOffload(SGLang):
    def plan(self, view: View) -> Plan:
        scene = Scene(view)
        holds = (view.residency == Residency.GPU) | (view.residency == Residency.LOADING)
        running, queue = holds.nonzero()[0], (~holds).nonzero()[0]
        self._observe(view, running, queue)
        waiting = self._return(scene, queue, len(running))
        running = np.sort(np.concatenate((running, np.array(scene.load, np.int64))))
        free = view.free_blocks - int(scene.blocks[scene.load].sum())
        scene.ready = self._speakers(view, scene.ready)         # one token short of a whole prompt looks ready as well
        prefill = self._next_prefill(view, Batch(running, scene.ready, waiting, free, scene.seats))
        scene.prefill = [(int(view.rows(np.array([id]))[0]), tokens) for id, tokens in prefill]
        if not prefill:
            self._make_room(scene)
        gone = len(scene.leave) + len(scene.give_up)
        self._remember(view, running, prefill, gone)
        elsewhere = (view.residency >= Residency.HOST).any() or len(scene.leave)
        until = Event.FINISH if self._full else Event.FINISH | Event.ARRIVAL
        again = not prefill and not self._full and len(waiting) > 0
        return scene.plan(store=True, mixed=self._mixes, until=Event.ANY if prefill or elsewhere else until,
                          wake_at_s=float(np.nextafter(view.now_s, inf)) if scene.give_up else inf, wake_after_steps=int(again))

    def _return(self, scene: Scene, queue: Ints, running: int) -> Ints:
        """Orders the loads at the head of the queue; returns who behind them may be prefilled: up to the next on the host."""
        view, at = scene.view, scene.view.residency[queue]
        tokens = view.free_blocks * view.block_size
        for place, row in enumerate(queue.tolist()):
            if at[place] == Residency.NONE:
                others = (at[place:] != Residency.NONE).nonzero()[0]
                return queue[place : place + int(others[0])] if len(others) else queue[place:]
            room = int(view.computed_tokens[row]) + self.retract_steps * (running + 1)
            if at[place] != Residency.HOST or (running and tokens < room) or not scene.fits(scene.whole_blocks(row)):
                return NOBODY
            scene.take(scene.whole_blocks(row))
            scene.load.append(row)
            tokens, running = tokens - int(scene.blocks[row]) * view.block_size, running + 1
        return NOBODY

    def _make_room(self, scene: Scene) -> None:
        """Victims leave when the next decode step will not fit even with what is leaving already."""
        view = scene.view
        free = view.free_blocks + int(scene.blocks[view.residency == Residency.EVICTING].sum())
        if np.count_nonzero(scene.takes[scene.ready]) <= free:
            return
        _, gone = self._retract(view, (view.residency == Residency.GPU).nonzero()[0], free)
        going = 0
        for row in gone.tolist():
            going += int(scene.blocks[row])
            if scene.left[row] == 1 and going <= scene.host_room:
                scene.evict(row)
            else:
                going -= int(scene.blocks[row])
                scene.drop(row)
