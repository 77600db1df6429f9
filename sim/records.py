"""What a run leaves behind, before any metric: every request's fate and the times of every token, compactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.api import Bools, Floats, Ints
from traces import Trace

from .errors import NothingFits
from .requests import Requests
from .step_clock import StepClock


def _none() -> Floats:
    return np.empty(0)


def _no_ints() -> Ints:
    return np.empty(0, np.int64)


class Fate:
    """How a request of the trace ended; plain ints. Rows that the loader dropped are counted by the trace."""

    PENDING, COMPLETED, REJECTED, UNFINISHED = range(4)
    NAMES = ("pending", "completed", "rejected", "unfinished")


@dataclass(eq=False)
class Records:
    """Arrays of shape (n,), one element per request of the trace; NaN where it never came to that."""

    sent_s: Floats              #: when the client sent it: its arrival, later where --max-concurrency held it back
    first_s: Floats             #: first token
    last_s: Floats              #: last token
    tokens: Ints                #: delivered
    preemptions: npt.NDArray[Any]       #: whole numbers; NaN where a real engine does not tell
    fate: Ints                  #: one of Fate
    reason: npt.NDArray[np.object_]     #: why it was rejected, or left unfinished by a real engine; "" otherwise
    clock_s: Floats = field(default_factory=_none)       #: end of every step in which anyone decoded, shape (steps,)
    segment_id: Ints = field(default_factory=_no_ints)            #: segments as in `sim.step_clock`, sorted by id, then time
    segment_token_s: Floats = field(default_factory=_none)
    segment_start: Ints = field(default_factory=_no_ints)
    segment_stop: Ints = field(default_factory=_no_ints)

    @classmethod
    def blank(cls, n: int) -> Records:
        never = np.full(n, np.nan)
        return cls(never, never.copy(), never.copy(), np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64),
                   np.full(n, "", object))

    @classmethod
    def of_token_times(cls, sent_s: Sequence[float] | Floats, times_s: Sequence[Floats], asked: Ints | None = None) -> Records:
        """Requests that a real engine served: when each was sent, and the times of its tokens, ascending.

        `asked`: output tokens of each; who got fewer is unfinished. Without it all are complete, and have a token at least.
        """
        records = cls.blank(len(times_s))
        records.tokens[:] = [len(times) for times in times_s]
        done = np.full(len(times_s), True) if asked is None else records.tokens == asked
        records.sent_s[:], records.fate[:] = sent_s, np.where(done, Fate.COMPLETED, Fate.UNFINISHED)
        records.first_s[:] = [times[0] if len(times) else np.nan for times in times_s]
        records.last_s[:] = [times[-1] if whole else np.nan for times, whole in zip(times_s, done)]
        records.clock_s, stop = np.concatenate(times_s), records.tokens.cumsum()
        records.segment_id, records.segment_token_s = np.arange(len(times_s)), np.full(len(times_s), np.nan)
        records.segment_start, records.segment_stop = stop - records.tokens, stop
        return records

    def turn_away(self, trace: Trace, pool_tokens: int | None, max_model_len: int | None) -> Bools:
        """Rejects the requests that can never run, and says which these are; NothingFits when that is all of them.

        `pool_tokens`: of KV that requests can hold; None where it is not known.
        """
        need = trace.input_tokens + trace.output_tokens
        for limit, name in ((pool_tokens, "the KV pool of"), (max_model_len, "--max-model-len")):
            if limit is not None:
                over = need > limit
                self.fate[over], self.reason[over] = Fate.REJECTED, f"prompt + output exceeds {name} {limit} tokens"
        rejected: Bools = self.fate == Fate.REJECTED
        if rejected.all():
            raise NothingFits("trace", trace.source or "given", f"no request fits: {self.reason[0]}")
        return rejected

    def close(self, requests: Requests, rows: Ints, fate: int, last_s: float) -> None:
        """These requests leave the engine."""
        ids = requests.id[rows]
        self.first_s[ids], self.last_s[ids] = requests.first_s[rows], last_s
        self.tokens[ids], self.preemptions[ids], self.fate[ids] = requests.output_tokens[rows], requests.preemptions[rows], fate

    def keep_times(self, clock: StepClock) -> None:
        self.clock_s = clock.ends_s()
        self.segment_id, self.segment_token_s, self.segment_start, self.segment_stop = clock.segments()
        for id in (np.isnan(self.first_s) & (self.tokens > 0)).nonzero()[0].tolist():   # a decode step gave the first token
            self.first_s[id] = self.token_times_s(id)[0]

    def token_times_s(self, id: int) -> Floats:
        """Times of the tokens of one request, ascending, shape (tokens[id],)."""
        first, last = self.segment_id.searchsorted(id), self.segment_id.searchsorted(id, side="right")
        parts = []
        for i in range(first, last):
            if not np.isnan(self.segment_token_s[i]):
                parts.append(self.segment_token_s[i : i + 1])
            parts.append(self.clock_s[self.segment_start[i] : self.segment_stop[i]])
        return np.concatenate(parts) if parts else np.empty(0)
