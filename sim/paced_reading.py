"""Readers whose rate changes along the answer, one by one: `sim.reading` with D(j), the sum of 1/r_i over i < j, for j/r.

c_j = max(t_j, c_(j-1) + 1/r_(j-1)) = t_0 + M_j + D(j), M_j the largest t_i - t_0 - D(i) until then. Unread tokens are not
evenly apart: they are counted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from policies.api import Floats, Ints
from traces.pace import Changes, reading_s

from .fluency import TOLERANCE, loses_fluency
from .qoe import qoe
from .reading import Reading, token_weights
from .records import Records


def read_at_paces(reading: Reading, records: Records, rates: Floats, changes: npt.NDArray[np.object_], lengths: Ints, who: Ints,
                  expected_ttft_s: Floats) -> None:
    """Enter the reading of the requests `who` (ids); arguments as `sim.reading.read` has them, `changes` beside the first rates."""
    for id in who[records.tokens[who] > 0].tolist():
        times_s = records.token_times_s(id)
        late_s = times_s[:1] - records.sent_s[id] - expected_ttft_s[id]
        _read_one(reading, id, times_s - times_s[0], float(rates[id]), changes[id], lengths[id : id + 1], late_s)


def _read_one(reading: Reading, id: int, since_first_s: Floats, rate: float, changes: Changes, length: Ints,
              late_s: Floats) -> None:
    tokens = len(since_first_s)
    due_s = reading_s(rate, changes, tokens + 1)
    stalled_s = np.maximum.accumulate(since_first_s - due_s[:-1])
    read = (stalled_s + due_s[:-1]).searchsorted(since_first_s[1:] + TOLERANCE, side="right")
    unread = np.maximum(np.arange(1, tokens) - read, 0.0)
    reading.rebuffer_s[id] = stalled_s[-1]
    reading.rebuffers[id] = np.count_nonzero(np.diff(stalled_s) > TOLERANCE)
    reading.effective_tokens[id] = 1.0 + token_weights(unread[None, :], length).sum()
    to_end_s = due_s[-1] - (due_s[:-1] + due_s[1:]).mean() / 2      # from the middle of reading a token, on average: n/2r
    reading.qoe[id] = qoe(late_s, np.array([tokens]), tokens / (2 * np.array([to_end_s])), stalled_s[None, :])[0]
    reading.lost_fluency[id] = loses_fluency(stalled_s[None, :], np.array([rate]), due_s[None, :-1])[0]
