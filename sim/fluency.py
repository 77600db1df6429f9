"""Loss of fluency: seconds in which someone reads notably slower than he would.

A request loses fluency when there is a window of one second in which its reader takes up less than 0.7 of what he takes up in a
second, r tokens, because there is nothing left to read. Tokens count by the part of them that falls into the window, each being
read for 1/r: so nothing depends on where whole tokens happen to fall, whatever the rate, and the condition reads "his buffer is
empty for more than 0.3 s of the window". Only stalls between the first token and the last count. Of answers that last less
than a second a window sees everything: there, 0.3 s in all are too many.
"""

from __future__ import annotations

import numpy as np

from policies.api import Bools, Floats

WINDOW_S = 1.0
SPEED_LOSS = 0.3        #: speed variation above which reading is felt to lose fluency (TokenFlow, section 2)

TOLERANCE = 1e-9        #: seconds that a stall, and tokens that a buffer, may be off by rounding


def loses_fluency(stalled_s: Floats, rates: Floats, due_s: Floats | None = None) -> Bools:
    """Whether each of m readers ever does; `stalled_s`: time before an empty buffer until each token since the first, shape (m, k).

    `due_s`: when each token would be taken up without stalls, where that is not j/r for token j, shape (m, k).

    It is enough to look at windows that end with a stall. Any other can be slid there without losing: to the left while its end
    lies outside stalls, to the right while it lies within one, for then it gains as fast as it can lose.
    """
    most = SPEED_LOSS * WINDOW_S + TOLERANCE
    lost: Bools = stalled_s[:, -1] > most
    if not lost.any():
        return lost
    rows = lost.nonzero()[0]
    stalls_s = np.diff(stalled_s[rows], axis=1)
    in_doubt = (stalls_s.max(axis=1, initial=0.0) <= most).nonzero()[0]         # no single stall says it
    if not len(in_doubt):
        return lost
    rows, stalls_s = rows[in_doubt], stalls_s[in_doubt]
    row, token = (stalls_s > 0).nonzero()
    stall_s, due = stalls_s[row, token], (token + 1) / rates[rows[row]] if due_s is None else due_s[rows[row], token + 1]
    since_first_s = stalled_s[rows[row], token + 1] + due

    # one axis of time: the rows one after the other, a window apart at least
    apart_s = stalled_s[rows, -1] + (stalled_s.shape[1] / rates[rows] if due_s is None else due_s[rows, -1]) + WINDOW_S
    end = (apart_s.cumsum() - apart_s)[row] + since_first_s
    until = stall_s.cumsum()
    edges, empty_s = np.stack((end - stall_s, end), axis=1).ravel(), np.stack((until - stall_s, until), axis=1).ravel()
    within_s = until - np.interp(end - WINDOW_S, edges, empty_s)
    lost[rows] = np.bincount(row[within_s > most], minlength=len(rows)) > 0
    return lost
