"""Andes as its authors' code has it: gains by rule of thumb, a fixed token latency, victims as far as slack pays for them.

The code (their fork of vLLM 0.6.1) is simpler than the paper. QoE is guessed from the tokens out and those expected by then;
the running get a bonus; only those of the running who are worth no more than the best who waits may make way, and no more of
them than the slack of the tightest tenth covers; no batch sizes, no refiner. Written from a reading of the code, not from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from .andes_loop import AndesLoop, grained
from .api import Floats, Ints, Residency, View
from .scene import Scene


@dataclass
class AndesCode(AndesLoop):
    token_latency_s: float = 0.02           #: of everyone served, whatever the batch
    running_bonus: float = 1.1              #: the gain of the running is multiplied by this
    preempt_tokens_per_s: float = 30_000.0  #: a preemption costs a second for so many tokens of KV
    squared: bool = True                    #: the solver divides the keys, which are gains per token already, by the context again

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("token_latency_s", "running_bonus", "preempt_tokens_per_s"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name}={getattr(self, name)}: must be a finite number above zero")

    def _pressed(self, view: View) -> bool:
        """So much memory is in use."""
        return view.free_blocks < (1 - self.watermark) * view.total_blocks

    def _replan(self, scene: Scene) -> None:
        view, needs = scene.view, self._needs(scene.view)
        key = self._gains(scene) / (view.prompt_tokens + view.output_tokens)
        residents = np.concatenate((scene.ready, scene.midway))
        absent = np.sort(np.concatenate((scene.waiting, scene.away, scene.dropped)))
        room = self._room(scene, residents, needs)
        if self._pressed(view) and len(absent):
            may_go = residents[key[residents] <= key[absent].max()]
            free = room.blocks + int(needs[may_go].sum())
            admits, spare = self._solve(scene, key, np.sort(np.concatenate((may_go, absent))), free, needs)
            spare = spare[: self._most_victims(view, residents)]
        else:
            admits, spare = _best_first(absent, key), residents[:0]
        self._make_way(scene, room, admits.tolist(), self._shrink(scene, room, spare.tolist(), needs), needs)
        if scene.short > 0:
            self._survive(scene, _best_first(np.sort(scene.staying(residents)), key)[::-1].tolist())

    def _gains(self, scene: Scene) -> Floats:
        """QoE of each request at the horizon if served, less that if paused, shape (n,)."""
        view, out = scene.view, scene.view.output_tokens
        until_s = _age_s(view) + self.horizon_s
        expected = np.maximum(until_s * view.consumption_rate, 1.0)
        served = np.minimum((out + self.horizon_s / self.token_latency_s) / expected, 1.0) ** 2
        begun = 1.0 - (np.maximum(expected - out, 0.0) / expected) ** 2
        paused = np.where(out > 0, begun, until_s <= self._expected_s(view))
        gain = served - paused
        gain[scene.ready] *= self.running_bonus
        return grained(gain)

    def _solve(self, scene: Scene, key: Floats, rows: Ints, room: int, needs: Ints) -> tuple[Ints, Ints]:
        """Greedy until the first who does not fit. Returns who comes, best first, and who falls out, worth least first."""
        view = scene.view
        ranked = _best_first(rows, key / (view.prompt_tokens + view.output_tokens) if self.squared else key)
        chosen = needs[ranked].cumsum() <= room
        here = view.residency[ranked] == Residency.GPU
        return ranked[chosen & ~here], ranked[here & ~chosen][::-1]

    def _most_victims(self, view: View, residents: Ints) -> int:
        """As many mean preemptions as fit into the slack that nine in ten of the running have."""
        if not len(residents):
            return 0
        next_s = self._expected_s(view)[residents] + view.output_tokens[residents] / view.consumption_rate[residents]
        slack_s = float(np.percentile(next_s - _age_s(view)[residents], 10))
        cost_s = float((view.prompt_tokens + view.output_tokens)[residents].mean()) / self.preempt_tokens_per_s
        return max(int(slack_s / cost_s), 0)

    def _expected_s(self, view: View) -> Floats:
        return np.where(np.isnan(view.ttft_slo_s), self.expected_ttft_s, view.ttft_slo_s)


def _age_s(view: View) -> Floats:
    """Since arrival, rounded to a microsecond: engines whose clocks differ in the last bit must rank alike."""
    age_s: Floats = np.rint((view.now_s - view.arrival_s) * 1e6) / 1e6
    return age_s


def _best_first(rows: Ints, key: Floats) -> Ints:
    return rows[(-key[rows]).argsort(kind="stable")]
