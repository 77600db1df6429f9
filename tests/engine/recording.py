"""What an engine decided and did, in a form in which two engines can be compared."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.api import Plan, Residency, View
from sim.run import Run

NEAR_S = 1e-6
_INTS = ("id", "prompt_tokens", "output_tokens", "max_tokens", "computed_tokens", "residency", "preemptions", "reader")
_FLOATS = ("arrival_s", "host_tokens", "consumption_rate", "moved_s", "priority", "ttft_slo_s", "tpot_slo_s", "read_until_s")
_COUNTS = ("free_blocks", "total_blocks", "host_free_blocks", "host_total_blocks", "block_size", "max_seqs", "max_step_tokens",
           "decode_steps", "prefill_steps", "decode_tokens", "prefill_tokens")
_TIMES = ("now_s", "h2d_free_s", "d2h_free_s", "decode_s", "prefill_s", "cost.step_s", "cost.load_s", "cost.store_s",
          "plan.wake_at_s")
_ORDERS = ("decode", "prefill", "offload", "drop", "load", "store", "forget", "until", "wake_after_steps")


@dataclass(eq=False)
class Decision:
    """A View and the Plan that answered it, copied."""

    ints: np.ndarray
    floats: np.ndarray
    counts: tuple[int, ...]
    times: np.ndarray
    orders: tuple[Any, ...]

    @classmethod
    def of(cls, view: View, plan: Plan, readers: bool = True) -> Decision:
        ids = {name: tuple(getattr(plan, name).tolist()) for name in ("decode", "offload", "drop", "load", "store", "forget")}
        orders = ids | {"prefill": tuple((int(id), int(tokens)) for id, tokens in plan.prefill), "until": plan.until,
                        "wake_after_steps": plan.wake_after_steps}
        times = [getattr(view, name) for name in _TIMES[:5]]
        costs = [view.cost.step_s(100, 5000, 0.0, 100), view.cost.load_s(100), view.cost.store_s(100)]
        floats = _FLOATS if readers else _FLOATS[:-1]
        return cls(np.array([getattr(view, name) for name in _INTS]), np.array([getattr(view, name) for name in floats]),
                   tuple(int(getattr(view, name)) for name in _COUNTS), np.array([*times, *costs, plan.wake_at_s]),
                   tuple(orders[name] for name in _ORDERS))

    def differs(self, other: Decision) -> str:
        """Which parts are not the same: integers exactly, times and tokens to a millionth; "" when there are none."""
        parts = [f"{name} {a} / {b}" for name, a, b in zip(_COUNTS, self.counts, other.counts) if a != b]
        parts += [f"{name} {a} / {b}" for name, a, b in zip(_TIMES, self.times.tolist(), other.times.tolist()) if not _near(a, b)]
        if self.ints.shape != other.ints.shape:
            return "; ".join((*parts, f"requests {self.ints[0].tolist()} / {other.ints[0].tolist()}"))
        for names, a, b in ((_INTS, self.ints, other.ints), (_FLOATS, self.floats, other.floats)):
            columns = min(len(a), len(b))
            off = ~_near(a[:columns], b[:columns])
            for i in off.any(axis=1).nonzero()[0]:
                ids = self.ints[0][off[i]].tolist()
                parts.append(f"{names[i]} of {ids}: {a[i][off[i]].tolist()} / {b[i][off[i]].tolist()}")
        parts += [f"plan.{name} {a} / {b}" for name, a, b in zip(_ORDERS, self.orders, other.orders) if a != b]
        return "; ".join(parts)


def _near(a: Any, b: Any) -> Any:
    """Equal to a millionth; infinities and NaN equal themselves."""
    with np.errstate(invalid="ignore"):
        return (a == b) | (np.abs(a - b) <= NEAR_S) | ((a != a) & (b != b))


class Recording:
    """Steps, decisions and victims of one engine. It is a `sim.engine.Watch`; the fake engine calls it as well."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, dict[int, int], tuple[int, ...]]] = []    # end, {id: tokens}, who was preempted before it
        self.decisions: list[Decision] = []
        self._victims: list[int] = []

    def decided(self, engine: Any, view: View, plan: Plan) -> None:
        self.decisions.append(Decision.of(view, plan))
        self._victims += [int(id) for id in plan.drop if view.residency[view.rows(np.array([id]))[0]] == Residency.GPU]

    def ran(self, engine: Any, run: Run) -> None:
        ids = engine.requests.id[run.rows].tolist()
        tokens = np.broadcast_to(run.tokens, len(ids)).tolist()
        for end_s in run.ends_s.tolist():
            self.step(end_s, dict(zip(ids, tokens)))

    def step(self, end_s: float, batch: dict[int, int], victims: tuple[int, ...] = ()) -> None:
        self.steps.append((end_s, batch, tuple(sorted((*self._victims, *victims)))))
        self._victims.clear()

    def tally(self) -> Counter[str]:
        """How much there is to compare."""
        total = Counter(steps=len(self.steps), decisions=len(self.decisions), victims=sum(len(step[2]) for step in self.steps),
                        tokens=sum(sum(batch.values()) for _, batch, _ in self.steps))
        for decision in self.decisions:
            orders = dict(zip(_ORDERS, decision.orders))
            total.update({name: len(orders[name]) for name in ("offload", "drop", "load", "store", "forget")})
            total["wake_after_steps"] += orders["wake_after_steps"] > 0
            total["mixed"] += len(orders["prefill"]) > 0 and len(orders["decode"]) > 0
            at = dict(zip(decision.ints[0].tolist(), decision.ints[5].tolist()))
            total["host_drop"] += sum(at[id] == Residency.HOST for id in orders["drop"])
        return total


def difference(model: Recording, real: Recording) -> str:
    """The first thing that is not the same in both; "" when everything is."""
    for i, (a, b) in enumerate(zip(model.decisions, real.decisions)):
        if says := a.differs(b):
            return f"decision {i} at {a.times[0]:.6f} s: {says}"
    for i, ((a_s, *a), (b_s, *b)) in enumerate(zip(model.steps, real.steps)):
        if a != b or abs(a_s - b_s) > NEAR_S:
            return f"step {i}: {a_s} {a} / {b_s} {b}"
    if len(model.decisions) != len(real.decisions) or len(model.steps) != len(real.steps):
        return f"{len(model.decisions)} / {len(real.decisions)} decisions, {len(model.steps)} / {len(real.steps)} steps"
    return ""
