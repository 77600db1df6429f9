"""Control: SGLang that stops generating for a reader with `high_s` seconds to read, until fewer than `low_s` are left.

Who is capped keeps memory and reservation. TokenFlow's effective throughput rewards slow generation: what this control
reaches as well is no merit of buffer-aware scheduling. Beyond capacity it holds memory that others wait for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, inf

import numpy as np

from .api import NOBODY, Bools, Floats, Ints, Plan, Residency, View, marked
from .sglang import SGLang

_TICK_S = 1e-6      # what slack is rounded to


@dataclass
class RateCap(SGLang):
    high_s: float = 1.0                 #: a buffer of so many seconds pauses its request
    low_s: float = 0.5                  #: one of fewer lets it go on

    _capped: Ints = field(init=False, repr=False, compare=False, default_factory=NOBODY.copy)     # ids
    _silent: Bools = field(init=False, repr=False, compare=False, default_factory=lambda: np.zeros(0, np.bool_))    # rows, now

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.low_s <= self.high_s:
            raise ValueError(f"low_s must be above 0 and at most high_s, got {self.low_s} and {self.high_s}")

    def plan(self, view: View) -> Plan:
        slack_s = view.slack_s
        capped = self._cap(view, slack_s)
        plan = super().plan(view)
        if plan.prefill:                            # the next question comes with its end
            return plan
        if len(plan.drop) and not len(plan.decode):
            return plan._replace(wake_at_s=float(np.nextafter(view.now_s, inf)))
        steps = self._steps_to_cap(view, slack_s, view.rows(plan.decode))
        return plan._replace(wake_at_s=self._resumption_s(view, capped),
                             wake_after_steps=min(steps, plan.wake_after_steps) if plan.wake_after_steps else steps)

    def _cap(self, view: View, slack_s: Floats) -> Ints:
        """Rows that are capped from now on."""
        full = slack_s >= np.where(marked(view.id, self._capped), self.low_s, self.high_s)
        self._silent = full & (view.residency == Residency.GPU) & (view.reader > 0)
        rows: Ints = self._silent.nonzero()[0]
        self._capped = view.id[rows]
        return rows

    def _speakers(self, view: View, running: Ints) -> Ints:
        decoders = super()._speakers(view, running)
        return decoders[~self._silent[decoders]]

    def _steps_to_cap(self, view: View, slack_s: Floats, rows: Ints) -> int:
        """Decode steps in which surely none of these is to be capped: a step adds at most one token to a buffer; 0: no limit."""
        rows = rows[view.reader[rows] > 0]
        if not len(rows):
            return 0
        tokens = (self.high_s - _TICK_S - slack_s[rows]) * view.consumption_rate[rows]
        least = float(tokens.min())
        return 0 if least == inf else max(ceil(least), 1)

    def _resumption_s(self, view: View, capped: Ints) -> float:
        """When the first of the capped has less than `low_s` to read."""
        if not len(capped):
            return inf
        at_s = float(view.read_until_s[capped].min()) - self.low_s + _TICK_S
        return max(at_s, float(np.nextafter(view.now_s, inf)))
