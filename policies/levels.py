"""FastServe's queues: where every request stands in a skip-join multi-level feedback queue.

Queue k grants quantum * 2^k seconds of service. A newcomer joins the first queue whose quantum covers its prefill; who has used
its quantum up goes to the tail of the next queue; who has waited too long goes back to the first. A request that is preempted
keeps its place.
"""

from __future__ import annotations

import numpy as np

from .api import Bools, Ints, View
from .lateness import carried

_TICK = 1e6         # engines whose clocks differ in the last bit must rank alike


class Levels:
    """Arrays of shape (n,), rows as in the View observed last.

    level: the queue; used_s: service since it was joined; turn: place among those who ever joined one; ran_s: end of the last step.
    """

    def __init__(self, quantum_s: float) -> None:
        self.quantum_s = quantum_s
        self.level = self.turn = self._id = self._computed = np.empty(0, np.int64)
        self.used_s = self.ran_s = np.empty(0)
        self._turns, self._busy_s = 0, 0.0

    def observe(self, view: View) -> None:
        """Bring everybody up to now: newcomers join, who has run is charged the time since the last View."""
        known, old = carried(self._id, view.id)
        level, turn = np.full(len(view.id), -1), np.zeros(len(view.id), np.int64)
        used_s, ran_s, ran = np.zeros(len(view.id)), view.arrival_s.copy(), np.zeros(len(view.id), np.bool_)
        level[known], turn[known], used_s[known], ran_s[known] = self.level[old], self.turn[old], self.used_s[old], self.ran_s[old]
        ran[known] = view.computed_tokens[known] > self._computed[old]
        new = (level < 0).nonzero()[0]
        level[new] = [self.first_level(view, tokens) for tokens in view.prompt_tokens[new].tolist()]
        self.level, self.turn, self.used_s, self.ran_s = level, turn, used_s, ran_s
        self._join(new)
        busy_s = view.decode_s + view.prefill_s
        used_s[ran] += np.rint((busy_s - self._busy_s) * _TICK) / _TICK
        ran_s[ran] = view.now_s
        self._id, self._computed, self._busy_s = view.id.copy(), view.computed_tokens.copy(), busy_s
        self._demote()

    def first_level(self, view: View, prompt_tokens: int) -> int:
        """The first queue whose quantum covers the prefill."""
        prefill_s = view.cost.step_s(prompt_tokens, 0.0, prompt_tokens**2 / 2, 1)
        level = 0
        while self.quantum_s * 2**level < prefill_s:
            level += 1
        return level

    def order(self) -> Ints:
        """All rows: the highest queue first, each from its front."""
        order: Ints = np.lexsort((self.turn, self.level))
        return order

    def promote(self, waiting: Bools, before_s: float) -> None:
        """Who waits and has not run since then goes to the first queue."""
        starved = (waiting & (self.ran_s <= before_s) & (self.level > 0)).nonzero()[0]
        starved = starved[np.lexsort((self.turn[starved], self.level[starved]))]
        self.level[starved], self.used_s[starved] = 0, 0.0
        self._join(starved)

    def until_overtaken_s(self, rows: Ints, level: int) -> float:
        """Service until the first of these rows stands behind those who now wait in this queue."""
        joins = np.maximum(self.level[rows] + 1, level)
        left_s = self.quantum_s * (2.0**joins - 2.0 ** self.level[rows]) - self.used_s[rows]
        return float(left_s.min()) + 1 / _TICK

    def _demote(self) -> None:
        """[R] Service beyond a quantum counts in the next queue, so that nothing depends on how often the policy is asked."""
        fallen = (self.used_s > self.quantum_s * 2.0**self.level).nonzero()[0]
        if not len(fallen):
            return
        fallen = fallen[np.lexsort((self.turn[fallen], self.level[fallen]))]
        over = fallen
        while len(over):
            self.used_s[over] -= self.quantum_s * 2.0 ** self.level[over]
            self.level[over] += 1
            over = over[self.used_s[over] > self.quantum_s * 2.0 ** self.level[over]]
        self._join(fallen)

    def _join(self, rows: Ints) -> None:
        """At the tails of their queues, in this order."""
        self.turn[rows] = self._turns + np.arange(len(rows))
        self._turns += len(rows)
