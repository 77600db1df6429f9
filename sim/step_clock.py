"""Every token's time at the price of one number a step.

All requests that decode share their steps, so a request's token times are slices of one clock: the end times of the steps in
which anyone decodes. A segment (id, prefill_token_s, start, stop) is one stretch of decoding: the token that a prefill gave
just before it (NaN when there was none), then the clock's entries [start, stop).
"""

from __future__ import annotations

import numpy as np

from policies.api import Floats, Ints

from .requests import Requests


class StepClock:
    def __init__(self) -> None:
        self.steps = 0
        self._ends: list[Floats] = []
        self._segments: list[tuple[Ints, Floats, Ints, int]] = []

    def tick(self, ends_s: Floats) -> None:
        """Decode steps ended at these times."""
        self._ends.append(ends_s)
        self.steps += len(ends_s)

    def join(self, requests: Requests, rows: Ints) -> None:
        """These requests decode from the next step on."""
        requests.joined[rows] = self.steps

    def leave(self, requests: Requests, rows: Ints) -> None:
        """These requests decode no more: their segments close."""
        joined = requests.joined[rows]
        self._segments.append((requests.id[rows], requests.prefill_token_s[rows], joined, self.steps))
        requests.joined[rows] = -1
        requests.prefill_token_s[rows] = np.nan

    def ends_s(self) -> Floats:
        """End of every step in which anyone decoded, shape (steps,)."""
        return np.concatenate(self._ends) if self._ends else np.empty(0)

    def segments(self) -> tuple[Ints, Floats, Ints, Ints]:
        """ids, prefill_token_s, start, stop of all closed segments, sorted by id, each request's in order of time."""
        if not self._segments:
            return np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
        ids, tokens, starts, stops = zip(*self._segments)
        id = np.concatenate(ids)
        stop = np.repeat(np.array(stops, np.int64), [len(part) for part in ids])
        order = id.argsort(kind="stable")
        return id[order], np.concatenate(tokens)[order], np.concatenate(starts)[order], stop[order]
