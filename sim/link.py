"""One direction of PCIe: copies go first come, first served, one event each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import simpy

from policies.api import Floats


class Link:
    """Copies whole KV blocks; every copy takes `block_s` seconds a block (overhead included) once its turn has come."""

    def __init__(self, env: simpy.Environment, block_s: float) -> None:
        if not block_s >= 0:
            raise ValueError(f"block_s must not be negative, got {block_s}")
        self.env, self.block_s = env, block_s
        self.free_s = 0.0           #: when the last queued copy is across
        self.busy_s = 0.0           #: seconds spent copying, queued copies included
        self.blocks = 0.0           #: blocks copied, in whole or in part

    def copy(self, blocks: int, then: Callable[[], None]) -> None:
        """Queue a copy of so many blocks; `then` is called when it is across."""
        self.occupy(self.env.now, blocks)
        self.env.timeout(self.free_s - self.env.now).callbacks.append(lambda _: then())

    def occupy(self, start_s: float, blocks: float) -> float:
        """Take the link for so many blocks, from `start_s` at the earliest; returns when they are across."""
        busy_s = blocks * self.block_s
        self.free_s = max(start_s, self.free_s) + busy_s
        self.busy_s += busy_s
        self.blocks += blocks
        return self.free_s

    def busy_in(self, start_s: float, ends_s: Floats) -> Floats:
        """Seconds of each consecutive step, from `start_s` to `ends_s`, in which queued copies hold the link."""
        edges = np.minimum(np.concatenate(([start_s], ends_s)), max(self.free_s, start_s))
        busy: Floats = np.diff(edges)
        return busy
