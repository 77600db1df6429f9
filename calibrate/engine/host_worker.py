"""The host tier as the worker sees it: carries out the orders that come with each step, and says what is across."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .copies import Across, Copies
from .mover import Mover


class HostWorker:
    """An emulated link only delays the report: bytes are copied when the copy begins, in the order of the orders."""

    def __init__(self, mover: Mover, clock: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        self._mover, self._clock, self._sleep = mover, clock, sleep
        self._evictions: dict[str, Any] = {}        # copies under way, by request
        self._loads: dict[str, Any] = {}
        self._across_s: dict[str, float] | None = None
        self._written: Any = None
        self._written_s = self._waited_s = 0.0

    def begin(self, orders: Copies) -> None:
        """Before the forward: what leaves the GPU. Evictions go first: write-through fills what they leave of the link."""
        self._mover.begin_step()
        self._across_s, self._written_s, self._waited_s = orders.across_s, orders.written_s, 0.0
        for name, pairs in orders.evict.items():
            self._evictions[name] = self._mover.to_host(pairs)
        self._written = self._mover.to_host(orders.write) if orders.write else None

    def load(self, orders: Copies) -> None:
        for name, pairs in orders.load.items():
            self._loads[name] = self._mover.to_gpu(pairs)

    def finish_writes(self) -> None:
        """After the forward: a step is over only when what is written through beside it is across."""
        if self._written is None:
            return
        late_s = self._written_s - self._clock() if self._across_s is not None else 0.0
        if late_s > 0:
            self._sleep(late_s)
            self._waited_s = late_s
        self._mover.wait(self._written)
        self._written = None

    def loaded(self) -> set[str]:
        """Who has come back since the last call."""
        return set(self._over(self._loads))

    def across(self) -> Across:
        """Everything else to tell the scheduler."""
        return Across(self._over(self._evictions), self._waited_s)

    def _over(self, copies: dict[str, Any]) -> list[str]:
        now_s, times = self._clock(), self._across_s
        names = [name for name, copy in copies.items()
                 if (times is None or times.get(name, now_s) <= now_s) and self._mover.over(copy)]
        for name in names:
            del copies[name]
        return names
