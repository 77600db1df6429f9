"""The requests that decode together.

All of them gain one token a step, so between two looks at them a number of steps is their whole news: runs only move the clock
and a few scalars, and rows are brought up to date (`settle`) when someone looks. Readers are settled apart, since most
policies never ask for them. Each takes a KV block once in block_size steps, always at the same place of that cycle: how many do
at each place says what any number of steps takes.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import numpy as np

from policies.api import NOBODY, Floats, Ints

from . import token_buffer
from .kv_cache import KVCache
from .requests import NEVER, Requests, moved
from .step_clock import StepClock


class Decoders:
    def __init__(self, requests: Requests, clock: StepClock, kv: KVCache) -> None:
        self._requests, self._clock, self._kv = requests, clock, kv
        self.rows: Ints = NOBODY            #: ascending
        self.n = 0
        self._at: Ints | slice = NOBODY     # the same; a slice, which is read without a copy, where there are no gaps
        self.kv_tokens = 0                  #: their KV together
        self.to_finish = 0                  #: steps until the first of them is done
        self.to_change = NEVER              #: steps until the first of their readers goes on at another rate
        self._takers = [0] * kv.block_size  # how many take a new block in step s, at s % block_size
        self._settled_at = self._read_at = 0        # steps of the clock that rows, and their readers, have been brought up to
        self._marks: list[tuple[int, float]] = []       # (step, its end) of the first and last step of each run

    def advance(self, ends_s: Floats) -> None:
        """They have decoded for so many steps."""
        steps = len(ends_s)
        self._marks.append((self._clock.steps, float(ends_s[0])))
        if steps > 1:
            self._marks.append((self._clock.steps + steps - 1, float(ends_s[-1])))
        self._kv.free -= self._blocks_in(steps)
        self._clock.tick(ends_s)
        self.kv_tokens += steps * self.n
        self.to_finish -= steps
        self.to_change -= steps

    def steps_that_fit(self) -> int:
        """Steps that surely fit into the free GPU blocks: exact when below block_size, 0 when there is nobody."""
        if not self.n:
            return 0
        whole = self._kv.free // self.n
        if whole:
            return whole * self._kv.block_size          # in block_size steps each request takes exactly one block
        now = self._clock.steps % self._kv.block_size
        taken = accumulate(self._takers[now:] + self._takers[:now])
        return bisect_right(list(taken), self._kv.free)

    def _blocks_in(self, steps: int) -> int:
        """Blocks that the next steps take."""
        bs = self._kv.block_size
        whole, rest = divmod(steps, bs)
        now = self._clock.steps % bs
        upto = now + rest
        return whole * self.n + sum(self._takers[now:upto]) + (sum(self._takers[: upto - bs]) if upto > bs else 0)

    # ---- bringing rows up to date

    def settle(self) -> None:
        """Write the steps since the last time into the rows."""
        steps = self._clock.steps
        if steps > self._settled_at and self.n:
            q, at = self._requests, self._at
            new = steps - np.maximum(q.joined[at], self._settled_at)
            q.computed_tokens[at] += new
            q.output_tokens[at] += new
        self._settled_at = steps

    def settle_readers(self) -> None:
        """Bring `read_until_s` up to date."""
        if not self._marks:
            return
        q, rows, steps = self._requests, self.rows, self._clock.steps
        if len(rows):
            at, ends_s = np.array(self._marks).T
            until_s, rate, since = q.read_until_s[rows], q.consumption_rate[rows], np.maximum(q.joined[rows], self._read_at)
            q.read_until_s[rows] = token_buffer.deliver(until_s, rate, since, steps, at, ends_s)
        self._marks.clear()
        self._read_at = steps

    def change_rates(self) -> None:
        """Who got the first token of another segment reads on at its rate."""
        self.settle()
        self.settle_readers()
        self._requests.read_on(self.rows)
        self._measure_change()

    # ---- who they are

    def join(self, rows: Ints) -> None:
        """These decode too, from the next step on."""
        q, steps, bs = self._requests, self._clock.steps, self._kv.block_size
        self._clock.join(q, rows)
        for row in rows.tolist():
            left, computed = int(q.final_tokens[row]) - int(q.output_tokens[row]), int(q.computed_tokens[row])
            self.to_finish = min(self.to_finish, left) if self.kv_tokens else left
            self.kv_tokens += computed
            self._takers[(steps - computed) % bs] += 1
            if q.rate_changes:
                self.to_change = min(self.to_change, int(q.change_at[row]) - int(q.output_tokens[row]))
        if len(rows) == 1:
            at = int(self.rows.searchsorted(rows[0]))
            together = np.concatenate((self.rows[:at], rows, self.rows[at:]))
        else:
            together = np.concatenate((self.rows, rows))
            together.sort()
        self._hold(together)

    def become(self, rows: Ints) -> None:
        """These decode from now on, and nobody else. All are settled."""
        q = self._requests
        if len(rows) == len(self.rows) and not np.count_nonzero(rows != self.rows):
            return
        decodes = np.zeros(q.n, np.bool_)
        decodes[rows] = True
        decoded = q.joined[: q.n] >= 0
        left, came = (decoded & ~decodes).nonzero()[0], (decodes & ~decoded).nonzero()[0]
        if len(left):
            self.settle_readers()
            self._clock.leave(q, left)
        if len(came):
            self._clock.join(q, came)
        self._hold(rows)
        self._measure()

    def done(self) -> Ints:
        """Rows whose last token is out; all are settled."""
        q, at = self._requests, self._at
        over: Ints = self.rows[q.final_tokens[at] == q.output_tokens[at]]
        return over

    def leave(self, rows: Ints) -> None:
        """These are done; all are settled. Next their rows are removed, and the others `shift`."""
        q, steps, bs = self._requests, self._clock.steps, self._kv.block_size
        self._clock.leave(q, rows)
        for computed in q.computed_tokens[rows].tolist():
            self.kv_tokens -= computed
            self._takers[(steps - computed) % bs] -= 1

    def shift(self, left: Ints) -> None:
        """The rows of those who left, ascending, are no more."""
        rows = self.rows
        gapless = isinstance(self._at, slice) and left[0] >= rows[0] and left[-1] <= rows[-1]      # and so it stays
        self._hold(rows[: self.n - len(left)] if gapless else moved(rows, left))
        self._measure_time()

    def _hold(self, rows: Ints) -> None:
        self.rows = self._at = rows
        self.n = len(rows)
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
            self._at = slice(int(rows[0]), int(rows[-1]) + 1)

    def _measure(self) -> None:
        q, at = self._requests, self._at
        computed, bs = q.computed_tokens[at], self._kv.block_size
        self.kv_tokens = int(np.add.reduce(computed))
        self._takers = np.bincount((self._clock.steps - computed) % bs, minlength=bs).tolist()
        self._measure_time()

    def _measure_time(self) -> None:
        q, at = self._requests, self._at
        left = q.final_tokens[at] - q.output_tokens[at]
        self.to_finish = int(left[left.argmin()]) if self.n else 0
        self._measure_change()

    def _measure_change(self) -> None:
        q, at = self._requests, self._at
        self.to_change = int((q.change_at[at] - q.output_tokens[at]).min()) if q.rate_changes and self.n else NEVER
