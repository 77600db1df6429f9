"""Fig. 6: three readers, two slots of 40 tokens/s each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from policies import TokenFlow
from policies.api import Plan, View
from traces import make_trace

from .. import pictures
from ..claims import of_item
from ..item import Item, Picture, Told
from ..judging import row
from ..runs import Found, Run
from ..setups import How
from ..verdicts import FAILS, HOLDS

_UNTIL_S = 7.0
_SOON_S = 0.2       # a decision is carried out at the next plan
NAMES = ("R1, 20/s", "R2, 30/s", "R3, 25/s")


class Slots:
    """A `sim.engine.Watch` that notes who gets a slot when, and who leaves."""

    def __init__(self) -> None:
        self.taken: list[tuple[float, int]] = []
        self.left: list[tuple[float, int]] = []

    def decided(self, engine: object, view: View, plan: Plan) -> None:
        self.taken += [(view.now_s, id) for id in (*plan.load.tolist(), *(id for id, _ in plan.prefill))]
        self.left += [(view.now_s, id) for id in (*plan.offload.tolist(), *plan.drop.tolist())]

    def ran(self, engine: object, run: object) -> None:
        pass

    def left_near(self, at_s: float) -> set[int]:
        return {id for when, id in self.left if abs(when - at_s) <= _SOON_S}

    def taken_near(self, at_s: float) -> set[int]:
        return {id for when, id in self.taken if abs(when - at_s) <= _SOON_S}

    def spans(self, id: int) -> list[tuple[float, float]]:
        starts, ends = ([when for when, other in which if other == id] for which in (self.taken, self.left))
        return [(start, min([end for end in ends if end > start], default=_UNTIL_S)) for start in starts]


def play() -> tuple[Slots, Sequence[float]]:
    """Who held a slot when, and how long each reader had stalled by the end."""
    from ...latency import LatencyModel
    from ...machine import Machine
    from ...simulate import simulate
    machine = Machine(LatencyModel(0.025, 0, 0, 0, 0, 1), kv_blocks=1000, host_kv_blocks=2000, max_seqs=2, max_step_tokens=4096,
                      copy_overhead_s=0.0, h2d_bytes_per_s=1.0, d2h_bytes_per_s=1.0, kv_token_bytes=0.02 / 200)
    trace = make_trace([0.0, 0.0, 2.0], 100, 400, consume_tps=[20.0, 30.0, 25.0])
    slots = Slots()
    result = simulate(TokenFlow(rate_margin=1.0), trace, machine, until_s=_UNTIL_S, watch=slots)
    return slots, result.metrics.reading.rebuffer_s.tolist()


def _tell(how: How, found: Found) -> Told:
    slots, stalled = play()
    at_2, at_3, at_5, calm = of_item("fig6")
    seen = "; ".join(f"{NAMES[id]} leaves at {when:.2f} s" for when, id in slots.left)
    kept = {at_2: not slots.left_near(2.0), at_3: slots.left_near(3.0) == {0} and 2 in slots.taken_near(3.0),
            at_5: slots.left_near(5.0) == {1} and 0 in slots.taken_near(5.0), calm: max(stalled) < 1e-3}
    rows = [row(claim, HOLDS if holds else FAILS, policy="tokenflow", rebuffer_s=max(stalled), why="" if holds else seen)
            for claim, holds in kept.items()]
    drawn = {name: slots.spans(id) for id, name in enumerate(NAMES)}
    return Told(rows, ["Two slots, 25 ms a step, prompts of 100 tokens; `tokenflow` at `rate_margin=1`, since the three "
                       "readers take 75 of the 80 tokens/s that there are. Moving 200 tokens takes 20 ms, so that loading "
                       f"is faster than computing again, as the example presumes (a reader who has to be computed again displaces "
                       f"nobody). {seen}."], [],
                [Picture("fig6", "When each request holds one of the two slots.",
                         partial(pictures.spans, drawn, _UNTIL_S, (2.0, 3.0, 5.0), "who holds a slot"))])


def _none(how: How) -> list[Run]:
    return []


ITEMS = (Item("fig6", "The toy example: two slots, three readers", 0.1, _none, _tell),)
