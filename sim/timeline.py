"""How a run went, over time: who waits, computes, pauses or is away, what memory holds, what the links carry.

A `Recorder` watches the engine and puts together, between two looks, what held in between: arrivals and landed copies carry
their own times. That gives pieces in which nothing changes; they are averaged over bins of equal width. Bins are a power of two
seconds wide and double as the run goes on, so that there are never more than MOST_POINTS, however long it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from policies.api import NOBODY, Floats, Ints, Plan, Residency, View, blocks_for

from .engine import Engine, Watch
from .run import Run

if TYPE_CHECKING:
    from pandas import DataFrame

    from .link import Link

MOST_POINTS = 2048          #: and at least half as many, once a run takes MOST_POINTS times SHORTEST_S
SHORTEST_S = 2.0**-10

#: where a request in the system is, one of these at any time
STATES = ("queued", "running", "paused", "on_host", "loading", "evicting")
_LEVELS = (*STATES, "gpu_blocks", "host_blocks", "h2d_backlog_s", "d2h_backlog_s")      # which have a maximum
_RATES = ("h2d_bytes_per_s", "d2h_bytes_per_s")
_FALLING = slice(len(_LEVELS) - 2, len(_LEVELS))                                        # by one second a second, down to 0

_PLACES = 6                 # of `Residency`, and one for who is not there yet
_ABSENT = 5
_CAME_FROM = np.array([_ABSENT, Residency.LOADING, Residency.EVICTING, _ABSENT, _ABSENT])
_PIECES = 4096              # kept before they are put into bins


@dataclass(frozen=True, eq=False)
class Timeline:
    """Bins in order of time, shape (points,) each: a mean over the bin, weighted by time, and the maximum within it.

    `queued`: sent, without any KV (newcomers, and who was preempted to be recomputed), not computing. `running`: in the steps
    under way. `paused`: KV on the GPU, not in these steps. `on_host`: KV on the host only. `loading`, `evicting`: on the way.
    These six make up everyone in the system. `gpu_blocks`, `host_blocks`: KV blocks held, host copies of residents included;
    what a step makes counts from its beginning, as engines allocate. `*_bytes_per_s`: what the link carries, write-through
    included.
    `*_backlog_s`: seconds until all queued copies are across.
    """

    start_s: Floats
    end_s: Floats
    means: Floats           #: shape (points, columns)
    maxima: Floats          #: shape (points, columns that have one)

    def columns(self) -> dict[str, Floats]:
        """`start_s`, `end_s`, the means by name, and the maxima as `max_<name>`."""
        return {"start_s": self.start_s, "end_s": self.end_s, **dict(zip((*_LEVELS, *_RATES), self.means.T)),
                **{f"max_{name}": column for name, column in zip(_LEVELS, self.maxima.T)}}

    @classmethod
    def of_columns(cls, told: Mapping[str, Floats]) -> Timeline:
        """What `columns` has given; KeyError when one of them is missing."""
        means = np.column_stack([told[name] for name in (*_LEVELS, *_RATES)])
        return cls(told["start_s"], told["end_s"], means, np.column_stack([told[f"max_{name}"] for name in _LEVELS]))

    @cached_property
    def frame(self) -> DataFrame:
        """`columns` as a pandas table."""
        from pandas import DataFrame
        return DataFrame(self.columns())


class Recorder:
    """A Watch that keeps a timeline, and passes everything on to another watch."""

    def __init__(self, also: Watch | None = None) -> None:
        self._also = also
        self._since_s = 0.0
        self._bins = Bins(len(_LEVELS) + len(_RATES), len(_LEVELS))
        self._h2d, self._d2h = _Traffic(), _Traffic()
        self._written = 0.0             # tokens of write-through so far
        self._pieces: list[tuple[Floats, Floats]] = []
        self._kept = 0

    def decided(self, engine: Engine, view: View, plan: Plan) -> None:
        self._look(engine, engine.env.now, NOBODY, inf)
        if self._also:
            self._also.decided(engine, view, plan)

    def ran(self, engine: Engine, run: Run) -> None:
        self._look(engine, float(run.ends_s[-1]), run.rows, run.start_s, run)
        if self._also:
            self._also.ran(engine, run)

    def timeline(self, engine: Engine) -> Timeline:
        """All of it, to the last request's end or to where the simulation was stopped."""
        if engine.requests.n:       # stopped within a step
            engine.settle()
            step = Run(self._since_s, np.array([engine.env.now]), engine.decoders.rows, engine.prefilling, engine.chunk, NOBODY)
            self._look(engine, engine.env.now, step.rows, step.start_s, step)
        self._put()
        return Timeline(*self._bins.told())

    def _look(self, engine: Engine, now_s: float, computing: Ints, began_s: float, run: Run | None = None) -> None:
        """What held since the last look. `computing`: rows in the steps since `began_s`; everything is settled."""
        since_s, bs = self._since_s, engine.machine.block_size
        if not now_s > since_s:
            return
        moves, growth = _Moves.since(engine, since_s), _Growth.of(engine, run)
        written = engine.write_through.tokens / bs
        h2d, h2d_upto = self._h2d.rate(engine.h2d, 0.0, since_s, now_s)
        d2h, d2h_upto = self._d2h.rate(engine.d2h, written, since_s, now_s)
        # after the queued copies; a step that was stopped has not written all of its chunk
        writes_s = max(began_s, min(engine.d2h.free_s, now_s))
        write, self._written = _rate(written - self._written, now_s - writes_s, engine.d2h.block_s), written

        frees_s = np.array([engine.h2d.free_s, engine.d2h.free_s])
        times = np.concatenate(([since_s, began_s, writes_s, h2d_upto, d2h_upto], frees_s, moves.when_s, growth.when_s))
        starts = np.unique(times[(times >= since_s) & (times < now_s)])
        table = np.zeros((len(starts), len(_LEVELS) + len(_RATES)))
        waits, resident, on_host, loading, evicting = moves.counts(engine, starts)
        runs = np.where(starts >= began_s, len(computing), 0)
        table[:, : len(STATES)] = np.column_stack((waits, runs, resident - runs, on_host, loading, evicting))
        table[:, 6:8] = _blocks(engine, starts, moves, growth)
        table[:, _FALLING] = np.maximum(frees_s - starts[:, None], 0.0)
        table[:, -2] = np.where(starts < h2d_upto, h2d, 0.0)
        table[:, -1] = np.where(starts < d2h_upto, d2h, 0.0) + np.where(starts >= writes_s, write, 0.0)
        table[:, -2:] *= bs * engine.machine.kv_token_bytes
        self._since_s = now_s
        self._pieces.append((starts, table))
        self._kept += len(starts)
        if self._kept > _PIECES:
            self._put()

    def _put(self) -> None:
        if self._pieces:
            starts, tables = zip(*self._pieces)
            self._bins.add(np.concatenate(starts), self._since_s, np.concatenate(tables), _FALLING)
        self._pieces, self._kept = [], 0


class _Moves(NamedTuple):
    """Requests that came or changed their place since the last look, once each: only plans could move them again."""

    when_s: Floats
    came_from: Ints
    to: Ints
    kv_tokens: Ints

    @classmethod
    def since(cls, engine: Engine, since_s: float) -> _Moves:
        q, n = engine.requests, engine.requests.n
        rows = (q.moved_s[:n] > since_s).nonzero()[0]
        to, kv_tokens = q.residency[rows], q.computed_tokens[rows]
        came_from = _CAME_FROM[to]
        came_from[(to == Residency.GPU) & (kv_tokens == 0)] = Residency.NONE     # its first chunk is under way
        return cls(q.moved_s[rows], came_from, to, kv_tokens)

    def counts(self, engine: Engine, starts: Floats) -> Ints:
        """Requests by residency in each piece, shape (5, pieces)."""
        q, counts = engine.requests, np.zeros((len(starts) + 1, _PLACES), np.int64)
        counts[0] = np.bincount(q.residency[: q.n], minlength=_PLACES)
        piece = starts.searchsorted(self.when_s)        # len(starts) where it is at the very end
        for places, sign in ((self.came_from, 1), (self.to, -1)):
            counts[0] += sign * np.bincount(places, minlength=_PLACES)
            np.add.at(counts, (piece, places), -sign)
        return counts[:-1].cumsum(axis=0).T[:5]


class _Growth(NamedTuple):
    """Within a run: when its steps begin, and the blocks that each of them takes on the GPU and on the host."""

    when_s: Floats
    on_gpu: Ints
    on_host: Ints

    @classmethod
    def of(cls, engine: Engine, run: Run | None) -> _Growth:
        if run is None:
            return cls(np.empty(0), NOBODY, NOBODY)
        bs, computed = engine.machine.block_size, engine.requests.computed_tokens
        steps = np.arange(len(run.ends_s))
        stored = np.intersect1d(run.decoding, engine.copies.rows, assume_unique=True)
        # a step begins a block of those whose KV filled the last one
        on_gpu, on_host = (np.bincount(-computed[rows] % bs, minlength=bs)[steps % bs] for rows in (run.decoding, stored))
        if len(run.prefilling):
            done = computed[run.prefilling]
            taken = blocks_for(done + run.chunk, bs) - blocks_for(done, bs)
            on_gpu[0] += taken.sum()
            on_host[0] += taken[np.isin(run.prefilling, engine.copies.rows)].sum()
        return cls(np.append(run.start_s, run.ends_s[:-1]), on_gpu, on_host)


def _blocks(engine: Engine, starts: Floats, moves: _Moves, growth: _Growth) -> Ints:
    """Blocks held on the GPU and on the host in each piece, shape (pieces, 2)."""
    kv, blocks = engine.kv, np.zeros((len(starts) + 1, 2), np.int64)
    stored = np.zeros(engine.requests.n, np.bool_)
    stored[engine.copies.rows] = True
    left_gpu = moves.came_from == Residency.EVICTING
    freed = blocks_for(moves.kv_tokens[left_gpu], kv.block_size)
    blocks[0] = kv.total - kv.free + freed.sum(), kv.host_held(stored)
    np.subtract.at(blocks[:, 0], starts.searchsorted(moves.when_s[left_gpu]), freed)
    step = starts.searchsorted(growth.when_s)
    np.add.at(blocks[:, 0], step, growth.on_gpu)
    np.add.at(blocks[:, 1], step, growth.on_host)
    held: Ints = blocks[:-1].cumsum(axis=0)
    return held


def _rate(blocks: float, spent_s: float, block_s: float) -> float:
    """Blocks per second of so many within a time, which is no more than the link can carry."""
    if spent_s <= 0:
        return 0.0
    return min(blocks / spent_s, 1 / block_s) if block_s else blocks / spent_s


class _Traffic:
    """Blocks of a link's queued copies, spread evenly over the time that it is busy with them."""

    def __init__(self) -> None:
        self._seen = self._queued = 0.0

    def rate(self, link: Link, written: float, since_s: float, now_s: float) -> tuple[float, float]:
        """(blocks per second, until when) since the last look; `written` blocks of write-through are no queued copies."""
        copied = link.blocks - written
        self._queued, self._seen = self._queued + copied - self._seen, copied
        upto_s = min(link.free_s, now_s) if link.free_s > since_s else now_s
        share = (upto_s - since_s) / (link.free_s - since_s) if link.free_s > now_s else 1.0
        blocks = self._queued * share
        self._queued -= blocks
        return blocks / (upto_s - since_s), upto_s


class Bins:
    """Means and maxima of columns over bins of one width, which doubles whenever there would be more than `most`."""

    def __init__(self, columns: int, with_maximum: int, most: int = MOST_POINTS, width_s: float = SHORTEST_S) -> None:
        self.width_s = width_s
        self._sums, self._maxima = np.zeros((most, columns)), np.zeros((most, with_maximum))
        self._end_s = 0.0

    def add(self, starts: Floats, end_s: float, values: Floats, falling: slice = slice(0, 0)) -> None:
        """Pieces that follow each other and go on from the last, with the values that hold in each; shapes (m,), (m, columns).

        `falling`: columns that fall from there by one a second, to 0 at the earliest by the end of their piece.
        """
        while end_s > self.width_s * len(self._sums):
            self._double()
        first = int(starts[0] / self.width_s)
        edges = self.width_s * np.arange(first + 1, int(np.ceil(end_s / self.width_s)))
        cuts = np.union1d(starts, edges)
        piece, bin = starts.searchsorted(cuts, side="right") - 1, first + edges.searchsorted(cuts, side="right")
        spans, values = np.diff(cuts, append=end_s), values[piece]
        values[:, falling] = np.maximum(values[:, falling] - (cuts - starts[piece])[:, None], 0.0)
        np.maximum.at(self._maxima, bin, values[:, : self._maxima.shape[1]])
        values[:, falling] = np.maximum(values[:, falling] - spans[:, None] / 2, 0.0)
        np.add.at(self._sums, bin, values * spans[:, None])
        self._end_s = end_s

    def _double(self) -> None:
        half = len(self._sums) // 2
        for table, merge in ((self._sums, np.add), (self._maxima, np.maximum)):
            table[:half] = merge(table[0::2], table[1::2])
            table[half:] = 0.0
        self.width_s *= 2

    def told(self) -> tuple[Floats, Floats, Floats, Floats]:
        """(start_s, end_s, means, maxima); the last bin ends with the last piece."""
        points = int(np.ceil(self._end_s / self.width_s))
        start_s = self.width_s * np.arange(points, dtype=np.float64)
        end_s = np.append(start_s[1:], self._end_s) if points else start_s
        return start_s, end_s, self._sums[:points] / (end_s - start_s)[:, None], self._maxima[:points].copy()
