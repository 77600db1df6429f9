"""How late every reader is against the text expected, and how QoE will stand a while from now (Andes, arXiv 2404.16283v2).

A reader expects the first token a while after sending and, from then on, to read without a stop. Time of reading that should
lie behind the reader, less what does, is the *lateness*; it grows by a second a second while nothing is left to read, and
never shrinks. QoE = 1 - S_delay / S_whole, with S_delay the lateness summed over time (early counts as on time) and S_whole
the reading expected, likewise. In seconds of reading instead of tokens, rates fall out of it.
"""

from __future__ import annotations

import numpy as np

from .api import NOBODY, Floats, Ints, View

_TICK = 1e6         # engines whose clocks differ in the last bit must rank alike
_LEAST_SHORT = 1e-12


class Lateness:
    """What a policy learns of it from its Views. Arrays of shape (n,), rows as in the View observed last."""

    def __init__(self, expected_ttft_s: float) -> None:
        self.expected_ttft_s = expected_ttft_s      #: of those who state no target of their own (`ttft_slo_s`)
        self.unread_s = self.age_s = self.late_s = self.delay_s2 = np.empty(0)
        self._id: Ints = np.empty(0, np.int64)
        self._output: Ints = self._id
        self._now_s = 0.0

    def observe(self, view: View) -> None:
        """Bring everybody up to now. Exact while no reader runs dry twice between two Views.

        unread_s: how long text is left to read; age_s: since the first token was expected, negative before;
        late_s: negative when early; delay_s2: S_delay so far.
        """
        period_s = 1.0 / view.consumption_rate
        with np.errstate(invalid="ignore"):         # a reader of infinite speed
            unread_s = _ticks(np.maximum(view.read_until_s + period_s - view.now_s, 0.0))
        expected_s = np.where(np.isnan(view.ttft_slo_s), self.expected_ttft_s, view.ttft_slo_s)
        age_s = _ticks(view.now_s - view.arrival_s - expected_s)
        read_s = view.output_tokens * period_s - unread_s
        late_s = age_s - read_s
        delay_s2 = np.maximum(late_s, 0.0) * (np.maximum(late_s, 0.0) / 2 + read_s)     # of a newcomer, who waited and then read
        if len(self._id):
            known, old = carried(self._id, view.id)
            passed_s = view.now_s - self._now_s
            before_s, had_s, made = self.late_s[old], self.unread_s[old], view.output_tokens[known] - self._output[old]
            taken_s = np.clip(had_s + made * period_s[known] - unread_s[known], 0.0, passed_s)
            first_s = np.minimum(had_s, taken_s)                # then the buffer is dry, then there is text again
            late_s[known] = after_s = before_s + passed_s - taken_s
            read = np.maximum(before_s, 0.0) * first_s + np.maximum(after_s, 0.0) * (taken_s - first_s)
            delay_s2[known] = self.delay_s2[old] + read + _area(before_s, after_s, 1.0, passed_s - taken_s)
        self._id, self._output, self._now_s = view.id.copy(), view.output_tokens.copy(), view.now_s
        self.unread_s, self.age_s, self.late_s, self.delay_s2 = unread_s, age_s, late_s, delay_s2

    def qoe(self, rows: Ints | slice, horizon_s: float, starts_s: Floats | float, speed: Floats | float) -> Floats:
        """QoE of these rows after `horizon_s`, when their tokens come from `starts_s` on (inf: none do), at `speed` times the
        reader's own; broadcast over leading axes. 1 for whoever expects nothing until then."""
        late_s, unread_s, whole_s = self.late_s[rows], self.unread_s[rows], self.age_s[rows] + horizon_s
        short = np.maximum(1.0 - np.minimum(speed, 1.0), 0.0)
        ahead = np.maximum(unread_s - starts_s, 0.0)
        dry_s = np.minimum(unread_s + ahead * (1.0 - short) / np.maximum(short, _LEAST_SHORT), horizon_s)
        again_s = np.clip(starts_s, dry_s, horizon_s)
        stalled = late_s + (again_s - dry_s)
        last = stalled + short * (horizon_s - again_s)
        delay = (self.delay_s2[rows] + np.maximum(late_s, 0.0) * dry_s + _area(late_s, stalled, 1.0, again_s - dry_s)
                 + _area(stalled, last, short, horizon_s - again_s))
        whole = np.maximum(whole_s, _LEAST_SHORT) ** 2 / 2
        found: Floats = np.where(whole_s > 0, 1.0 - delay / whole, 1.0)
        return found


def carried(before: Ints, ids: Ints) -> tuple[Ints | slice, Ints | slice]:
    """Rows of `ids` that were there before, and where; both ascending."""
    if len(before) == len(ids) and not np.count_nonzero(before != ids):
        return slice(None), slice(None)
    at = before.searchsorted(ids)
    known = (before.take(at, mode="clip") == ids).nonzero()[0] if len(before) else NOBODY
    return known, at[known]


def _area(start: Floats, end: Floats, slope: Floats | float, length: Floats) -> Floats:
    """Under max(line, 0), where a line climbs from `start` to `end`."""
    found: Floats = np.where(start >= 0, length * (start + end) / 2,
                             np.maximum(end, 0.0) ** 2 / (2 * np.maximum(slope, _LEAST_SHORT)))
    return found


def _ticks(seconds: Floats) -> Floats:
    rounded: Floats = np.rint(seconds * _TICK) / _TICK
    return rounded
