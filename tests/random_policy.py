"""Random but legal plans: a policy for tests, it visits corners that no sensible policy does.

Uses `policies.api` alone, so that the same object can steer any engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

import numpy as np

from policies.api import NOBODY, Event, Ints, InvalidPlan, Plan, Residency, View, blocks_for, check_plan

_TRIES = 14         # ever more timid draws before the cautious plan
_TIMIDITY = 0.75


@dataclass
class RandomPolicy:
    """Every draw depends on the seed, on how often it was asked and on whole numbers of the view, never on a float of it:
    engines whose clocks differ in the last bit get the same plans. `offload`, `store` and `forget` switch those orders off."""

    seed: int = 0
    offload: bool = True
    store: bool = True
    forget: bool = True

    _asked: int = field(init=False, repr=False, compare=False, default=0)

    def plan(self, view: View) -> Plan:
        self._asked += 1
        rng = np.random.default_rng([self.seed, self._asked, len(view.id), int(view.id.sum()), int(view.output_tokens.sum()),
                                     int(view.computed_tokens.sum()), int(view.residency.sum())])
        for attempt in range(_TRIES):
            plan = self._draw(view, rng, _TIMIDITY**attempt)
            if plan is not None:
                return plan
        return self._cautious(view)

    def _draw(self, view: View, rng: np.random.Generator, bold: float) -> Plan | None:
        """One random plan; None when it is illegal, or would change nothing for good."""
        at, left = view.residency, view.remaining_tokens

        def some(rows: Ints, share: float) -> Ints:
            """A random part of `rows`, in random order."""
            return rng.permutation(rows[rng.random(len(rows)) < share * bold])

        here, away = (at == Residency.GPU).nonzero()[0], (at == Residency.HOST).nonzero()[0]
        gone = some(here, 0.06)
        saved = gone[rng.random(len(gone)) < 0.7] if self.offload else gone[:0]
        stay = np.setdiff1d(here, gone)
        decode = np.sort(some(stay[left[stay] == 1], 1.0 if rng.random() < 0.8 else 0.1))
        prefill = tuple(self._chunks(view, rng, (*some(stay[left[stay] > 1], 0.9), *some((at == Residency.NONE).nonzero()[0][:8], 0.6)),
                                     view.max_step_tokens - len(decode)))
        copies = some(away, 0.03)
        back = np.setdiff1d(away, copies)
        store = some(stay, 0.8) if self.store and rng.random() < 0.8 else NOBODY
        forget = some(np.setdiff1d(stay, store), 0.1) if self.forget else NOBODY
        until = Event.ANY if rng.random() < 0.3 else int(rng.integers(0, Event.ANY + 1))
        dropped = rng.permutation(np.concatenate((np.setdiff1d(gone, saved), copies)))
        load = some(back[:6], 0.7)
        moves = bool(len(decode) or prefill or len(load) or (at >= Residency.LOADING).any())
        plan = Plan(decode=view.id[decode], prefill=prefill, offload=view.id[saved], drop=view.id[dropped], load=view.id[load],
                    store=view.id[store], forget=view.id[forget], until=until, **_wake(view, rng, patient=moves and until == Event.ANY))
        try:
            check_plan(view, plan)
        except InvalidPlan:
            return None
        return plan if moves or rng.random() < 0.05 else None

    @staticmethod
    def _chunks(view: View, rng: np.random.Generator, rows: tuple[int, ...], budget: int) -> Iterator[tuple[int, int]]:
        """Whole prompts and parts of them, for as long as a step has tokens."""
        for row in rows:
            left = int(view.remaining_tokens[row])
            chunk = min(left if rng.random() < 0.5 else int(rng.integers(1, left + 1)), budget)
            if chunk > 0:
                budget -= chunk
                yield int(view.id[row]), chunk

    @staticmethod
    def _cautious(view: View) -> Plan:
        """One small legal thing that brings somebody on."""
        at, left, bs = view.residency, view.remaining_tokens, view.block_size
        here = (at == Residency.GPU).nonzero()[0]
        ready = here[left[here] == 1]
        takes = view.computed_tokens[ready] % bs == 0
        ready = ready[~takes | (takes.cumsum() <= view.free_blocks)][: view.max_step_tokens]
        if len(ready):
            return Plan(decode=view.id[ready], wake_after_steps=1)
        room = view.free_blocks * bs + -view.computed_tokens % bs
        midway = here[(left[here] > 1) & (room[here] > 0)]
        if len(midway):
            row = midway[0]
            return Plan(prefill=((int(view.id[row]), int(min(left[row], room[row], view.max_step_tokens))),))
        if (at >= Residency.LOADING).any():
            return Plan()
        if len(here):
            return Plan(drop=view.id[here[-1:]], wake_at_s=float(np.nextafter(view.now_s, inf)))
        away = (at == Residency.HOST).nonzero()[0]
        away = away[blocks_for(view.computed_tokens[away], bs) <= view.free_blocks]
        if len(away):
            return Plan(load=view.id[away[:1]])
        return Plan(prefill=((int(view.id[0]), int(min(left[0], view.free_blocks * bs, view.max_step_tokens))),))


def _wake(view: View, rng: np.random.Generator, patient: bool) -> dict[str, float | int]:
    """When to be asked again: at the next step, after some steps or seconds; not at all only for the `patient`."""
    kind = rng.random()
    soon = float(view.now_s + rng.choice([0.003, 0.02, 0.1, 0.5]))
    if kind < 0.1:
        return {"wake_at_s": float(np.nextafter(view.now_s, inf))}
    if kind < 0.4:
        return {"wake_at_s": soon, "wake_after_steps": int(rng.integers(1, 20))}
    return {"wake_at_s": inf if patient and kind < 0.6 else soon}
