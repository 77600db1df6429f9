"""Synchronous chunked writing: before each step, the engine takes from the unwritten KV what the coming step can hide.

A step of believed duration t hides (write_share t - queued copies) seconds of writing; requests are served in the plan's
order; the KV that the step itself makes is unwritten until the next. Over the first m requests of the order, the unwritten
tokens V after the write of step i follow Lindley's recursion V_i = max(0, V_(i-1) + f - s_i), f new tokens a step and
s_i tokens hidden. Within a run s_i never shrinks from the second step on, so the largest partial sum starts at step 1 or 2:

    V_k = max(0, W_0 + (k-1) f - sum s, (k-1) f - sum_(i>1) s)

Loads under way slow the writing: they only drain during a run, so s_i still never shrinks. The writing does not slow the loads:
while they are under way it takes 1 to 2.5 % of the link on the 80- and 400-request bursts of DESIGN.md (90 % of a step right
after a long prefill). What it does take is counted as busy at the link's own rate.
"""

from __future__ import annotations

from math import inf

import numpy as np

from policies.api import Floats

from .link import Link
from .machine import Machine

_SNAP_TOKENS = 1e-6     # sums of token times differ by far less, a chunk by far more


class WriteThrough:
    """Fills what the d2h link has left during steps."""

    def __init__(self, machine: Machine, d2h: Link) -> None:
        self._d2h, self._token_s = d2h, d2h.block_s / machine.block_size
        self._share = machine.write_share * machine.believed_step
        self._believed_link = machine.believed_link
        self._block_size = machine.block_size
        #: no chunk can outlast the step it hides in, be the link idle or busy
        self.exact = self._share <= 1.0 and self._share * machine.believed_link <= 1.0
        self.late_chunks = 0            #: chunks that outlasted their step; the next step waited for them
        self.late_s = 0.0
        self.chunks = 0                 #: steps that a chunk was hidden in
        self.tokens = 0.0

    def hidden_tokens(self, start_s: float, ends_s: Floats) -> Floats:
        """What the engine takes from the unwritten KV before each step, at most, in tokens; shape (steps,)."""
        if not self._token_s:
            return np.full(len(ends_s), np.inf)
        durations = np.diff(ends_s, prepend=start_s)
        believed = ends_s
        if self._share > 1.0:                                   # reaches beyond the step, which is a single one then
            believed = start_s + self._share * durations
        spare_s = np.maximum(self._share * durations - self._d2h.busy_in(start_s, believed), 0.0)
        if self._d2h.slowed_after(start_s):
            begins_s = np.maximum(ends_s - durations, self._d2h.free_s)
            spare_s -= self._d2h.lost_in(begins_s, begins_s + spare_s)
        hidden: Floats = spare_s * (self._believed_link / self._token_s)
        return hidden

    def hidden_blocks(self, start_s: float, end_s: float) -> float:
        """Of whole blocks, what the engine takes before a single step, at most: `hidden_tokens` without its arrays."""
        if not self._token_s:
            return inf
        took_s, free_s = end_s - start_s, self._d2h.free_s
        believed_s = start_s + self._share * took_s if self._share > 1.0 else end_s
        spare_s = max(self._share * took_s - (min(believed_s, max(free_s, start_s)) - start_s), 0.0)
        if self._d2h.slowed_after(start_s):
            begins_s = max(end_s - took_s, free_s)
            spare_s -= self._d2h.lost_s(begins_s, begins_s + spare_s)
        return (spare_s * (self._believed_link / self._token_s) + _SNAP_TOKENS) // self._block_size

    def write(self, start_s: float, ends_s: Floats, unwritten: Floats, fresh: Floats) -> Floats:
        """Tokens still unwritten after the steps, per request in the order of the plan.

        `unwritten`: before the first step; `fresh`: what each step makes (several for a prefill, then a single step).
        """
        steps, waiting, made = len(ends_s), float(unwritten.sum()), float(fresh.sum())
        if self.keeps_up(start_s, float(ends_s[0]), waiting, 0.0 if steps == 1 else made):
            left = fresh
        else:
            hidden = self.hidden_tokens(start_s, ends_s)
            backlog, grown = unwritten.cumsum(), fresh.cumsum() * (steps - 1)
            rest = float(hidden[1:].sum())
            over = np.maximum(np.maximum(backlog + (grown - rest) - hidden[0], grown - rest), 0.0)
            left, most = np.diff(over, prepend=0.0), unwritten + fresh * (steps - 1)
            # snapped, so that a copy is complete, or untouched, whatever the sums rounded to
            left = np.where(left < _SNAP_TOKENS, 0.0, np.where(left > most - _SNAP_TOKENS, most, left)) + fresh
        written = waiting + made * steps - float(left.sum())
        self.wrote(written, steps)
        return left

    def wrote(self, tokens: float, steps: int) -> None:
        """So many tokens were written, hidden in so many steps."""
        self._d2h.busy_s += tokens * self._token_s
        self._d2h.blocks += tokens / self._block_size
        self.tokens += tokens
        self.chunks += steps

    def keeps_up(self, start_s: float, end_s: float, waiting: float, made: float) -> bool:
        """Whether the first step surely hides all that waits, and every later one what the one before has made."""
        if self._d2h.free_s > end_s or not self.exact:
            return False
        rate = self._believed_link / self._token_s if self._token_s else inf
        if self._d2h.slowed_after(start_s):
            rate *= self._d2h.share                             # in some of the steps it is more
        hidden_s = self._share * (end_s - start_s)
        return made <= hidden_s * rate and waiting <= (hidden_s - max(self._d2h.free_s - start_s, 0.0)) * rate

    def outlasting(self, start_s: float, end_s: float, unwritten: float) -> float:
        """When the step that began at `start_s` is over: later than `end_s` where its chunk outlasts it."""
        chunk = min(unwritten, float(self.hidden_tokens(start_s, np.array([end_s]))[0]))
        across_s = self.across_s(start_s, chunk) if chunk > 0 else end_s
        if across_s > end_s + 1e-9:
            self.late_chunks += 1
            self.late_s += across_s - end_s
            return across_s
        return end_s

    def across_s(self, start_s: float, tokens: float) -> float:
        """When so many tokens are across that are written from then on, after what is queued."""
        return self._d2h.written_s(max(start_s, self._d2h.free_s), tokens * self._token_s)
