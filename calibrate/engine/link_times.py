"""When copies between GPU and host are across, as the scheduler sees it: by arithmetic where the link is emulated, else by report.

Both are also what the policy is told about the links, and what write-through is measured out by.
"""

from __future__ import annotations

from functools import partial
from math import inf

from sim.link import Link, host_links, take_across
from sim.machine import Machine


class EmulatedLinks:
    """The simulator's links, paced by the scheduler's clock. The bytes themselves are copied when the copy begins."""

    def __init__(self, machine: Machine) -> None:
        self.h2d, self.d2h = host_links(machine)
        self._loads: list[str] = []             # under way, in order
        self._evictions: list[str] = []
        self._across_s: dict[str, float] = {}

    def load(self, request_id: str, blocks: int, now_s: float) -> None:
        self.h2d.copy(now_s, blocks, partial(self._end, self._loads))
        self._loads.append(request_id)

    def evict(self, request_id: str, blocks: int, now_s: float) -> None:
        self.d2h.copy(now_s, blocks, partial(self._end, self._evictions))
        self._evictions.append(request_id)

    def cancel_load(self, request_id: str, blocks: int) -> None:
        """It never began; the link's time is lost."""
        self._loads[self._loads.index(request_id)] = ""
        self.h2d.blocks -= blocks

    def _end(self, under_way: list[str], at_s: float) -> None:
        name = under_way.pop(0)
        if name:
            self._across_s[name] = at_s

    def look(self, now_s: float) -> None:
        """Take what is across by now."""
        if self._loads or self._evictions:
            take_across(self.h2d, self.d2h, now_s)

    def reported(self, request_id: str, now_s: float) -> float:
        """When the copy was across that the worker says is."""
        return self._across_s.pop(request_id)

    def awaited_s(self) -> dict[str, float] | None:
        """When each copy under way is across, if nothing more is queued."""
        if not (self._loads or self._evictions):
            return {}
        return dict(zip((*self._loads, *self._evictions), (*self.h2d.awaited_s(), *self.d2h.awaited_s())))

    @property
    def next_s(self) -> float:
        return min(self.h2d.next_s, self.d2h.next_s)


class ReportedLinks:
    """Links at the rates that the profile gives, measured or estimated; when a copy is across, the worker knows."""

    next_s = inf

    def __init__(self, machine: Machine) -> None:
        self.h2d, self.d2h = host_links(machine)
        self._under_way: dict[str, tuple[Link, int]] = {}

    def load(self, request_id: str, blocks: int, now_s: float) -> None:
        self._begin(self.h2d, request_id, blocks, now_s)

    def evict(self, request_id: str, blocks: int, now_s: float) -> None:
        self._begin(self.d2h, request_id, blocks, now_s)

    def cancel_load(self, request_id: str, blocks: int) -> None:
        del self._under_way[request_id]
        self.h2d.blocks -= blocks
        self.h2d.busy_s -= blocks * self.h2d.block_s

    def _begin(self, link: Link, request_id: str, blocks: int, now_s: float) -> None:
        self._under_way[request_id] = link, blocks
        link.blocks += blocks
        link.busy_s += blocks * link.block_s
        self.look(now_s)

    def look(self, now_s: float) -> None:
        """What is under way takes its time from now on, however much of it may be across: that is an upper bound."""
        if not self._under_way and max(self.h2d.free_s, self.d2h.free_s) <= now_s:
            return
        for link in (self.h2d, self.d2h):
            blocks = sum(blocks for on, blocks in self._under_way.values() if on is link)
            link.free_s = now_s + blocks * link.block_s if blocks else min(link.free_s, now_s)

    def reported(self, request_id: str, now_s: float) -> float:
        del self._under_way[request_id]
        return now_s

    def awaited_s(self) -> dict[str, float] | None:
        return None
