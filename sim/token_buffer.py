"""The reader's token buffer in closed form.

A reader takes token j at c_j = max(t_j, c_(j-1) + 1/r): as soon as it is there and the one before has been read. Reading
stops while the buffer is empty. Every unread token waits behind one that was read late or in time, so unread tokens are 1/r
apart, and ONE number per request, the time c_n at which the last delivered token is taken up, is the whole state.
"""

from __future__ import annotations

import numpy as np

from policies.api import Floats


def deliver(read_until_s: Floats, rate: Floats, first_s: float, last_s: float, tokens: int) -> Floats:
    """c_n after `tokens` more tokens, the first at `first_s`, the last at `last_s`, delivered at times whose gaps never shrink.

    c_n = max(c_0 + n/r, t_1 + (n-1)/r, ..., t_n); with growing gaps the largest t_i + (n-i)/r is at an end of the run.
    """
    gap = 1.0 / rate
    late = np.maximum(first_s - gap, last_s - tokens * gap)
    until: Floats = np.maximum(read_until_s, late) + tokens * gap
    return until
