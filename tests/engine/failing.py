"""Policies that fail in the engine, one way each, once some decisions have gone well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from rotate import Rotate

from policies.api import Plan, View

LAST_STRAW = 666.0      # a request of this priority


@dataclass
class Failing(Rotate):
    """Rotates until `decisions` are made, and somebody is on the host where anybody can be."""

    how: str = "raises"
    decisions: int = 20

    def plan(self, view: View) -> Plan:
        self.decisions -= 1
        if self.decisions >= 0 or (view.host_total_blocks and not (view.host_tokens > 0).any()):
            return super().plan(view)
        plan: Any = getattr(self, f"_{self.how}")(view)
        return plan     # type: ignore[no-any-return]

    def _raises(self, view: View) -> Any:
        raise KeyError("lost")

    def _exits(self, view: View) -> Any:
        raise SystemExit("gone")

    def _says_nonsense(self, view: View) -> Any:
        return "go on"

    def _is_illegal(self, view: View) -> Any:
        return Plan(decode=view.id + 1000)

    def _overfills(self, view: View) -> Any:
        return Plan(prefill=tuple((int(id), 10**6) for id in view.id))

    def _writes(self, view: View) -> Any:
        view.id[0] = 7

    def _idles(self, view: View) -> Any:
        return Plan()

    def _hears_nothing(self, view: View) -> Any:
        return Plan(until=0, decode=view.id[:0])

    def _never_rests(self, view: View) -> Any:
        return Plan(wake_at_s=float(np.nextafter(view.now_s, np.inf)))


@dataclass
class OnDemand(Rotate):
    """Rotates until a request of priority 666 comes."""

    def plan(self, view: View) -> Plan:
        if (view.priority == LAST_STRAW).any():
            raise KeyError("666")
        return super().plan(view)
