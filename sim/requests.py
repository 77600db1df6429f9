"""Every unfinished request, one row each, in order of arrival; the state of the model machine lives here."""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter

import numpy as np

from policies.api import Floats, Ints
from traces.pace import Changes

_INTS = ("id", "prompt_tokens", "output_tokens", "max_tokens", "computed_tokens", "residency", "preemptions", "reader",
         "final_tokens", "joined", "change_at")
_FLOATS = ("arrival_s", "host_tokens", "consumption_rate", "read_until_s", "moved_s", "priority", "ttft_slo_s", "tpot_slo_s",
           "first_s", "prefill_token_s")


NEVER = 1 << 61      #: more tokens than any answer has

_WINDOWS = 256          # kept, by number of rows: making one takes longer than most policies' thought


class Requests:
    """Columns as arrays; rows [0, n) are in use. Public columns are those of `policies.api.View`, and

    final_tokens: the output length the model will really produce (the policy never sees it);
    joined: where in the step clock the request began to decode, -1 while it does not;
    change_at: tokens with which the reader goes on at another rate, `NEVER` when there is none;
    first_s, prefill_token_s: times of the first token and of the one its last prefill gave, NaN when there is none.
    """

    id: Ints
    prompt_tokens: Ints
    output_tokens: Ints
    max_tokens: Ints
    computed_tokens: Ints
    residency: Ints
    preemptions: Ints
    reader: Ints
    final_tokens: Ints
    joined: Ints
    change_at: Ints
    arrival_s: Floats
    host_tokens: Floats
    consumption_rate: Floats
    read_until_s: Floats
    moved_s: Floats
    priority: Floats
    ttft_slo_s: Floats
    tpot_slo_s: Floats
    first_s: Floats
    prefill_token_s: Floats

    def __init__(self, capacity: int = 256) -> None:
        self.n = 0
        self.rate_changes: dict[int, Changes] = {}      #: of those whose rate changes, by id
        self._hold(np.zeros((len(_INTS) + len(_FLOATS), capacity), np.int64))

    def _hold(self, table: Ints) -> None:
        self._table = table         # one for both kinds, floats by their bits: rows move in one go
        self._ints = table[: len(_INTS)]
        self._floats: Floats = table[len(_INTS) :].view(np.float64)
        self._frozen = self._ints.view(), self._floats.view()
        for window in self._frozen:
            window.flags.writeable = False
        self._windows: dict[int, tuple[tuple[Ints, ...], tuple[Floats, ...]]] = {}
        for name, column in zip((*_INTS, *_FLOATS), (*self._ints, *self._floats)):
            setattr(self, name, column)

    def frozen(self) -> tuple[tuple[Ints, ...], tuple[Floats, ...]]:
        """Read-only windows on the rows in use: integer and float columns in the order of this file."""
        n = self.n
        if n not in self._windows:
            if len(self._windows) == _WINDOWS:
                self._windows.clear()
            ints, floats = self._frozen
            self._windows[n] = tuple(ints[:, :n]), tuple(floats[:, :n])
        return self._windows[n]

    def add(self, id: int, arrival_s: float, prompt_tokens: int, max_tokens: int, final_tokens: int, consumption_rate: float,
            priority: float = 1.0, ttft_slo_s: float = np.nan, tpot_slo_s: float = np.nan, reader: bool = True,
            rate_changes: Changes = ()) -> None:
        n = self.n
        if n == self._ints.shape[1]:
            self._hold(np.concatenate((self._table, np.zeros_like(self._table)), axis=1))
        self._ints[:, n] = (id, prompt_tokens, 0, max_tokens, 0, 0, 0, reader, final_tokens, -1, NEVER)
        self._floats[:, n] = (arrival_s, 0.0, consumption_rate, -np.inf, arrival_s, priority, ttft_slo_s, tpot_slo_s,
                              np.nan, np.nan)
        if rate_changes:
            self.rate_changes[id], self.change_at[n] = rate_changes, rate_changes[0][0] + 1
        self.n = n + 1

    def remove(self, rows: Ints) -> None:
        """Close the gaps."""
        n = self.n
        if self.rate_changes:
            for id in self.id[rows].tolist():
                self.rate_changes.pop(id, None)
        if len(rows) == 1:
            row = int(rows[0])
            self._table[:, row : n - 1] = self._table[:, row + 1 : n]
        else:
            keep, left = np.ones(n, np.bool_), n - len(rows)
            keep[rows] = False
            self._table[:, :left] = self._table[:, :n][:, keep]
        self.n = n - len(rows)

    def read_on(self, rows: Ints) -> None:
        """Of these readers, those whose newest token begins another segment go on at its rate."""
        for row in rows[self.output_tokens[rows] >= self.change_at[rows]].tolist():
            changes, newest = self.rate_changes[int(self.id[row])], int(self.output_tokens[row]) - 1
            begun = bisect_right(changes, newest, key=itemgetter(0))
            self.consumption_rate[row] = changes[begun - 1][1]
            self.change_at[row] = changes[begun][0] + 1 if begun < len(changes) else NEVER

    def row(self, id: int) -> int:
        return int(self.id[: self.n].searchsorted(id))


def moved(rows: Ints, removed: Ints) -> Ints:
    """Where these rows are now that others, ascending, are removed; without those that were."""
    before = removed.searchsorted(rows)
    left: Ints = (rows - before)[removed.take(before, mode="clip") != rows]
    return left
