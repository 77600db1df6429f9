"""The two directions of PCIe: each copies first come, first served, and they contend.

Alone, a direction copies at its own rate; while the other has copies queued too, at `share` of it. What is queued later on the
other side can only put a copy off. No copy has an event of its own: whoever owns the links knows when the next is across
(`next_s`) and takes what is (`take_across`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

import numpy as np

from policies.api import Floats

from .machine import Machine


def host_links(machine: Machine) -> tuple[Link, Link]:
    """Both directions between host and GPU: h2d and d2h."""
    h2d, d2h = (Link(machine.block_copy_s(rate), machine.block_copy_s(rate * share)) for rate, share in (
        (machine.h2d_bytes_per_s, machine.duplex_h2d), (machine.d2h_bytes_per_s, machine.duplex_d2h)))
    h2d.other, d2h.other = d2h, h2d
    return h2d, d2h


def take_across(h2d: Link, d2h: Link, now_s: float) -> None:
    """Tell everyone whose copies are across by now, in order of time."""
    while (link := h2d if h2d.next_s <= d2h.next_s else d2h).next_s <= now_s:
        link.take_next()


class Link:
    """One direction. Copies whole KV blocks: `block_s` seconds a block (overhead included), `contended_s` beside the other."""

    def __init__(self, block_s: float, contended_s: float | None = None) -> None:
        if not block_s >= 0:
            raise ValueError(f"block_s must not be negative, got {block_s}")
        self.block_s = block_s
        self.share = 1.0 if not contended_s else block_s / contended_s      #: of its rate, while both directions copy
        self.other = self           #: direction; itself when there is none, and then nothing is ever queued beside it
        self.free_s = 0.0           #: when the last queued copy is across, if no more come
        self.next_s = inf           #: when the first of those not taken yet is
        self.busy_s = 0.0           #: seconds spent copying, queued copies included
        self.blocks = 0.0           #: blocks copied, in whole or in part
        self._queued_s = 0.0        # all copies so far, alone
        self._delays = 0            # how often its queue was put off
        # of each copy not taken yet: when it is across, all copying up to it, how often the queue had been put off, whom to tell
        self._queue: deque[tuple[float, float, int, Callable[[float], None]]] = deque()

    def copy(self, now_s: float, blocks: int, then: Callable[[float], None]) -> None:
        """Queue a copy of so many blocks; `then` is told when it was across. What is across by now has been taken."""
        alone_s, start_s, other = blocks * self.block_s, max(now_s, self.free_s), self.other
        rest_s = other.free_s - start_s         # of the other direction's queue, which by now was to cross alone
        both_s = min(alone_s / self.share, rest_s / other.share) if rest_s > 0 else 0.0
        took_s = alone_s + (1.0 - self.share) * both_s
        self.free_s = start_s + took_s
        self.busy_s += took_s
        self.blocks += blocks
        self._queued_s += alone_s
        other._put_off((1.0 - other.share) * both_s)
        self._queue.append((self.free_s, self._queued_s, self._delays, then))
        if len(self._queue) == 1:
            self.next_s = self.free_s

    def take_next(self) -> None:
        """Whose copy is across next is told so."""
        _, _, _, then = self._queue.popleft()
        across_s = self.next_s
        self._look()
        then(across_s)

    def awaited_s(self) -> list[float]:
        """When each queued copy that has not been taken is across, in their order."""
        times = [across_s if delays == self._delays else self._across_s(queued_s) for across_s, queued_s, delays, _ in self._queue]
        return [self.next_s, *times[1:]] if times else []

    def _put_off(self, lost_s: float) -> None:
        if lost_s > 0:
            self.free_s += lost_s
            self.busy_s += lost_s
            self._delays += 1
            self._look()

    def _look(self) -> None:
        """See when the next copy is across."""
        if not self._queue:
            self.next_s = inf
            return
        across_s, queued_s, delays, _ = self._queue[0]
        self.next_s = across_s if delays == self._delays else self._across_s(queued_s)

    def _across_s(self, queued_s: float) -> float:
        """When the copy is across that ends the first `queued_s` of all copying. Counted from the end of the queue: its last
        part crosses alone, what is before that beside the other direction's."""
        behind_s, alone_s = self._queued_s - queued_s, max(self.free_s - self.other.free_s, 0.0)
        return self.free_s - max(behind_s, alone_s + (behind_s - alone_s) / self.share)

    def moved(self, now_s: float) -> tuple[float, float]:
        """Blocks copied by now, the one under way in part, and the seconds spent on them; nothing is queued later than now."""
        left_s = max(self.free_s - now_s, 0.0)
        beside_s = max(min(self.free_s, self.other.free_s) - now_s, 0.0)
        left = (left_s - (1.0 - self.share) * beside_s) / self.block_s if left_s else 0.0
        return self.blocks - left, self.busy_s - left_s

    # ---- for what is written through, after the queue: it slows no queued copy

    def busy_in(self, start_s: float, ends_s: Floats) -> Floats:
        """Seconds of each consecutive step, from `start_s` to `ends_s`, in which queued copies hold the link."""
        edges = np.minimum(np.concatenate(([start_s], ends_s)), max(self.free_s, start_s))
        busy: Floats = np.diff(edges)
        return busy

    def slowed_after(self, start_s: float) -> bool:
        """Whether the other direction leaves less than the whole rate then."""
        return self.share < 1.0 and self.other.free_s > start_s

    def lost_in(self, starts_s: Floats, ends_s: Floats) -> Floats:
        """Of so long copying, the seconds that the other direction's queue takes away."""
        lost: Floats = (1.0 - self.share) * np.maximum(np.minimum(ends_s, self.other.free_s) - starts_s, 0.0)
        return lost

    def lost_s(self, start_s: float, end_s: float) -> float:
        """`lost_in` for one stretch."""
        return (1.0 - self.share) * max(min(end_s, self.other.free_s) - start_s, 0.0)

    def written_s(self, start_s: float, alone_s: float) -> float:
        """When so many seconds of copying alone are over that begin after the queue."""
        return start_s + alone_s + (1.0 - self.share) * min(alone_s / self.share, max(self.other.free_s - start_s, 0.0))
