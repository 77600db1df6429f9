"""The requests that decode together.

All of them gain one token a step, so between two looks at them a number of steps is their whole news: runs only move the clock
and three scalars, and rows are brought up to date (`settle`) when someone looks. Readers are settled apart, since most
policies never ask for them.
"""

from __future__ import annotations

import numpy as np

from policies.api import NOBODY, Floats, Ints, decode_steps_that_fit

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
        self._settled_at = 0                # step of the clock
        self._marks: list[tuple[int, float]] = []       # (step, its end) of the first and last step of each run

    def advance(self, ends_s: Floats) -> None:
        """They have decoded for so many steps."""
        steps = len(ends_s)
        self._marks.append((self._clock.steps, float(ends_s[0])))
        if steps > 1:
            self._marks.append((self._clock.steps + steps - 1, float(ends_s[-1])))
        self._clock.tick(ends_s)
        self.kv_tokens += steps * len(self.rows)
        self.to_finish -= steps
        self.to_change -= steps

    def steps_that_fit(self) -> int:
        """Steps that surely fit into the free GPU blocks; 0 only if not even one does."""
        n, bs = len(self.rows), self._kv.block_size
        taken = n * -(-(self._clock.steps - self._settled_at) // bs)        # at most, since rows were settled
        whole = (self._kv.free - taken) // n if n else 0
        if whole > 0:
            return whole * bs                           # in block_size steps each request takes exactly one block
        self.settle()
        return decode_steps_that_fit(self._requests.computed_tokens[self.rows], self._kv.free, bs)

    # ---- bringing rows up to date

    def settle(self) -> None:
        """Write the steps since the last time into the rows: tokens, KV and its blocks."""
        steps = self._clock.steps
        if steps == self._settled_at or not len(self.rows):
            self._settled_at = steps
            return
        q, at = self._requests, self._at
        new = steps - q.settled[at]
        computed = q.computed_tokens[at]
        self._kv.free -= self._kv.more_blocks(computed, new, steps - self._settled_at)
        q.computed_tokens[at] = computed + new
        q.output_tokens[at] += new
        q.settled[at] = steps
        self._settled_at = steps

    def settle_readers(self) -> None:
        """Bring `read_until_s` up to date."""
        if not self._marks:
            return
        q, rows, steps = self._requests, self.rows, self._clock.steps
        if len(rows):
            at, ends_s = np.array(self._marks).T
            until_s, rate = q.read_until_s[rows], q.consumption_rate[rows]
            q.read_until_s[rows] = token_buffer.deliver(until_s, rate, q.read_at[rows], steps, at, ends_s)
            q.read_at[rows] = steps
        self._marks.clear()

    def change_rates(self) -> None:
        """Who got the first token of another segment reads on at its rate."""
        self.settle()
        self.settle_readers()
        self._requests.read_on(self.rows)
        self._measure_change()

    # ---- who they are

    def join(self, rows: Ints) -> None:
        """These decode too, from the next step on."""
        q, steps = self._requests, self._clock.steps
        self._clock.join(q, rows)
        q.settled[rows] = q.read_at[rows] = steps
        for row in rows.tolist():
            left = int(q.final_tokens[row]) - int(q.output_tokens[row])
            self.to_finish = min(self.to_finish, left) if self.kv_tokens else left
            self.kv_tokens += int(q.computed_tokens[row])
            if q.rate_changes:
                self.to_change = min(self.to_change, int(q.change_at[row]) - int(q.output_tokens[row]))
        together = np.concatenate((self.rows, rows))
        if (self.n and together[self.n] < together[self.n - 1]) or len(rows) > 1:
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
            q.settled[came] = q.read_at[came] = self._clock.steps
        self._hold(rows)
        self._measure()

    def done(self) -> Ints:
        """Rows whose last token is out; all are settled."""
        q, rows = self._requests, self.rows
        over: Ints = rows[q.final_tokens[rows] == q.output_tokens[rows]]
        return over

    def shift(self, removed: Ints) -> None:
        """These rows, ascending, are no more."""
        self._hold(moved(self.rows, removed))
        self._measure()

    def _hold(self, rows: Ints) -> None:
        self.rows = self._at = rows
        self.n = len(rows)
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
            self._at = slice(int(rows[0]), int(rows[-1]) + 1)

    def _measure(self) -> None:
        q, at = self._requests, self._at
        self.kv_tokens = int(q.computed_tokens[at].sum())
        left = q.final_tokens[at] - q.output_tokens[at]
        self.to_finish = int(left[left.argmin()]) if self.n else 0
        self._measure_change()

    def _measure_change(self) -> None:
        q, at = self._requests, self._at
        changes = q.rate_changes and len(self.rows)
        self.to_change = int((q.change_at[at] - q.output_tokens[at]).min()) if changes else NEVER
