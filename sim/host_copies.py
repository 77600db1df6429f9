"""Who is written through while the plan stands, and how far.

While writing keeps up, a request's copy lacks just the token of the step before: that needs no arithmetic until someone looks.
Otherwise the backlog is followed request by request.
"""

from __future__ import annotations

import numpy as np

from policies.api import NOBODY, Bools, Floats, Ints, decode_steps_that_fit

from .decoders import Decoders
from .kv_cache import KVCache
from .requests import Requests, moved
from .step_clock import StepClock
from .write_through import WriteThrough


class HostCopies:
    def __init__(self, requests: Requests, clock: StepClock, kv: KVCache, decoders: Decoders, writer: WriteThrough) -> None:
        self._requests, self._clock, self._kv, self._decoders, self._writer = requests, clock, kv, decoders, writer
        self.rows: Ints = NOBODY            #: in the order of the plan
        self._marked: Bools = np.zeros(0, np.bool_)     # of shape (requests then,)
        self._growing = 0                   # how many of them decode
        self._unwritten = 0.0               # their KV without a copy, in tokens
        self._settled_at = 0                # step of the clock
        self._kept_up = False               # since then, all that waited was written in each run
        self._last_decoded = False          # the last of those runs decoded

    @property
    def n(self) -> int:
        return len(self.rows)

    def become(self, rows: Ints) -> None:
        """These are written through from now on. Everything is settled."""
        self.rows = rows
        self._mark()
        self._measure()

    def any_of(self, rows: Ints) -> bool:
        """Whether any of these residents is written through."""
        return bool(self._marked[rows[rows < len(self._marked)]].any())

    def _mark(self) -> None:
        self._marked = np.zeros(self._requests.n, np.bool_)
        self._marked[self.rows] = True

    def _measure(self) -> None:
        q, rows = self._requests, self.rows
        self._growing = int(np.count_nonzero(q.joined[rows] >= 0)) if len(rows) else 0
        self._unwritten = self._waiting(rows) if len(rows) else 0.0
        self._settled_at, self._kept_up = self._clock.steps, False

    def _waiting(self, rows: Ints) -> float:
        """Tokens that could be written now."""
        return float((self._requests.computed_tokens[rows] - self._requests.host_tokens[rows]).sum())

    def steps_that_fit(self) -> int:
        """Decode steps that surely fit into the free host blocks; 0 only if not even one does."""
        n, bs, kv = len(self.rows), self._kv.block_size, self._kv
        taken = n * -(-(self._clock.steps - self._settled_at) // bs)
        whole = (kv.host_free - taken) // n
        if whole > 0:
            return whole * bs
        self.settle()
        self.recount()
        growing = self.rows[self._requests.joined[self.rows] >= 0]
        return decode_steps_that_fit(self._requests.computed_tokens[growing], kv.host_free, bs) if len(growing) else 1 << 30

    # ---- runs

    def keep_up(self, start_s: float, ends_s: Floats, decodes: bool) -> bool:
        """Book a run if all that waits is written in its first step, and every later step writes what the one before made."""
        made = float(self._growing) if decodes else 0.0
        if not self._writer.keeps_up(start_s, float(ends_s[0]), self._unwritten, made if len(ends_s) > 1 else 0.0):
            return False
        self._writer.wrote(self._unwritten + made * (len(ends_s) - 1), len(ends_s))
        self._unwritten, self._kept_up, self._last_decoded = made, True, decodes
        return True

    def follow(self, start_s: float, ends_s: Floats, made: Floats) -> tuple[Floats, Floats]:
        """What each request lacks after a run in which it makes so much a step; everything is settled.

        Returns that and the ends of the steps, of which there may be fewer, the last put off where its chunk outlasts it.
        """
        q, rows, believed = self._requests, self.rows, ends_s
        unwritten = q.computed_tokens[rows] - q.host_tokens[rows]
        if not self._writer.exact:
            ends_s = np.array([self._writer.outlasting(start_s, float(ends_s[0]), float(unwritten.sum()))])
        return self._writer.write(start_s, believed, unwritten, made), ends_s

    def book(self, left: Floats) -> None:
        """The run that was followed is over, its tokens are in the rows."""
        q, rows = self._requests, self.rows
        q.host_tokens[rows] = q.computed_tokens[rows] - left
        self.recount()
        self._measure()

    # ---- bringing rows up to date

    def settle(self) -> None:
        """Bring `host_tokens` up to date."""
        if not len(self.rows) or (not self._kept_up and self._clock.steps == self._settled_at):
            return
        q, rows = self._requests, self.rows
        fresh = (q.joined[rows] >= 0) & (q.joined[rows] < self._clock.steps) if self._last_decoded else 0
        self._decoders.settle()
        if self._kept_up:
            self._complete(rows, fresh)
        self._measure()

    def _complete(self, rows: Ints, fresh: Bools | int) -> None:
        """All is written but so many tokens of each, which the last step made."""
        self._requests.host_tokens[rows] = self._requests.computed_tokens[rows] - fresh

    def joined(self, rows: Ints) -> None:
        """Some requests decode from now on; those that are written through have nothing unwritten."""
        if len(self.rows):
            marked = self._marked
            self._growing += sum(row < len(marked) and bool(marked[row]) for row in rows.tolist())

    def shift(self, removed: Ints) -> None:
        """These rows, ascending, are no more. Everything is settled."""
        self.rows = moved(self.rows, removed)
        self._mark()
        self.recount()
        self._measure()

    def recount(self) -> None:
        """Count the host's free blocks anew, with the whole KV of who is written through."""
        if len(self._marked) < self._requests.n:
            self._mark()
        self._kv.recount_host(self._marked)
