"""How a replay went over time, in the columns of the simulator's timeline: one look at the scheduler in each step."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from policies.api import Residency
from sim.timeline import Bins, Timeline

_LEVELS, _RATES = 10, 2         # columns of `Timeline`, those with a maximum first


class Recorder:
    """Looks whenever the scheduler has put a step together; what it sees holds until the next."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler, self._schedule = scheduler, scheduler.schedule
        self._pool = scheduler.kv_cache_manager.block_pool
        self._host = getattr(scheduler, "host", None)
        self._pieces: list[tuple[float, list[float]]] = []
        self._bytes: list[tuple[float, float]] = []
        scheduler.schedule = self._looked_at

    def _looked_at(self, *args: Any, **kw: Any) -> Any:
        out = self._schedule(*args, **kw)
        self._pieces.append((time.perf_counter(), self._levels(len(out.num_scheduled_tokens))))
        self._bytes.append(self._carried())
        return out

    def _levels(self, running: int) -> list[float]:
        scheduler = self._scheduler
        streams = getattr(scheduler, "streams", None)
        if streams is None:         # vLLM's own
            where = [len(scheduler.requests) - len(scheduler.running), running, len(scheduler.running) - running, 0, 0, 0]
        else:
            at = np.bincount([stream.residency for stream in streams.values()], minlength=5)
            where = [int(at[Residency.NONE]), running, int(at[Residency.GPU]) - running, int(at[Residency.HOST]),
                     int(at[Residency.LOADING]), int(at[Residency.EVICTING])]
        used = self._pool.num_gpu_blocks - 1 - self._pool.get_num_free_blocks()
        return [*map(float, where), float(used), *self._of_host()]

    def _of_host(self) -> list[float]:
        """Host blocks held, seconds of copies queued each way."""
        if self._host is None:
            return [0.0, 0.0, 0.0]
        bs, now_s = self._scheduler.block_size, self._scheduler.clock()
        stored = {stream.id for stream in self._scheduler.storing}
        held = sum(stream.host_blocks(bs, stream.id in stored) for stream in self._scheduler.streams.values())
        return [float(held), max(self._host.h2d_free_s - now_s, 0.0), max(self._host.d2h_free_s - now_s, 0.0)]

    def _carried(self) -> tuple[float, float]:
        tell = getattr(self._host, "totals", None)
        if tell is None:
            return 0.0, 0.0
        totals = tell()
        return float(totals["h2d_bytes"]), float(totals["d2h_bytes"])

    def timeline(self, start_s: float, end_s: float) -> Timeline:
        """From `start_s` on `time.perf_counter`, for `end_s` seconds."""
        bins = Bins(_LEVELS + _RATES, _LEVELS)
        if self._pieces:
            starts = np.maximum(np.array([at_s for at_s, _ in self._pieces]) - start_s, 0.0)
            starts[0] = 0.0
            spans = np.diff(starts, append=end_s)
            moved = np.diff(np.array([*self._bytes, self._carried()]), axis=0) / np.maximum(spans, 1e-9)[:, None]
            table = np.column_stack((np.array([levels for _, levels in self._pieces]), moved))
            seen = spans > 0
            bins.add(starts[seen], end_s, table[seen])
        return Timeline(*bins.told())
