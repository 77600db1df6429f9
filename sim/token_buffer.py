"""The reader's token buffer in closed form.

A reader takes token j at c_j = max(t_j, c_(j-1) + 1/r): as soon as it is there and the one before has been read. Reading
stops while the buffer is empty. Every unread token waits behind one that was read late or in time, so unread tokens are 1/r
apart, and ONE number per request, the time c_n at which the last delivered token is taken up, is the whole state.

A rate that changes along the answer is that of the token being read: c_j = max(t_j, c_(j-1) + 1/r_(j-1)). With n tokens
delivered, the rate in force is r of the newest, and it holds until the first token of another segment has come.
"""

from __future__ import annotations

import numpy as np

from policies.api import Floats, Ints

TOLERANCE_S = 1e-9      #: a shorter stall is rounding


def deliver(read_until_s: Floats, rate: Floats, since: Ints, steps: int, at: Floats, ends_s: Floats) -> Floats:
    """c_n of readers who got one token in each step of a clock, up to `steps`: max(c_0 + n/r, t_j + (n - j)/r over the steps j).

    `since`: the step each reader's first new token came in, shape (n,); `at`, `ends_s`: numbers and ends of the steps to look
    at, ascending: the first and the last of each run will do, since within a run steps never get shorter.
    """
    gap = 1.0 / rate
    late = ends_s[:, None] + (steps - 1.0 - at[:, None]) * gap         # each token's time, and all after it read on
    if at[0] < since.max():
        late[at[:, None] < since] = -np.inf
    until: Floats = np.maximum(read_until_s + (steps - since) * gap, late.max(axis=0))
    return until


def read_along(times_s: Floats, due_s: Floats) -> tuple[Floats, Floats]:
    """(c_j, stalls) of one reader: when each token is taken up, shape (k,), and from when to when there was none, shape (m, 2).

    `due_s`: when each token would be taken up after the first, if none came late (`traces.pace.reading_s`).
    """
    late = np.maximum.accumulate(times_s - due_s)
    stalled = (np.diff(late) > TOLERANCE_S).nonzero()[0]
    taken_s: Floats = late + due_s
    return taken_s, np.column_stack((late[stalled] + due_s[stalled + 1], times_s[stalled + 1]))
