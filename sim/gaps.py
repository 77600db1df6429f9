"""Gaps between tokens (ITL), without listing every token."""

from __future__ import annotations

import numpy as np

from policies.api import Bools

from .pooled import Pooled
from .records import Records


def gaps(records: Records, chosen: Bools) -> Pooled:
    """Every time between two consecutive tokens (ITL) of the chosen requests, in seconds; `chosen` has shape (n,).

    Inside a segment, gaps are differences of the clock, and as many requests have one as segments span it. The others are
    listed: from a prefill's token to the clock's first entry, and across the border between two segments.
    """
    kept = chosen[records.segment_id] & ((records.segment_stop > records.segment_start) | ~np.isnan(records.segment_token_s))
    id, token_s = records.segment_id[kept], records.segment_token_s[kept]
    start, stop = records.segment_start[kept], records.segment_stop[kept]
    ran, spoke = stop > start, ~np.isnan(token_s)
    clock, steps = records.clock_s, len(records.clock_s)

    spans = np.bincount(start[ran], minlength=steps) - np.bincount(stop[ran] - 1, minlength=steps)
    both = ran & spoke
    onward = clock[start[both]] - token_s[both]

    first_s, last_s = token_s.copy(), token_s.copy()
    first_s[~spoke], last_s[ran] = clock[start[~spoke]], clock[stop[ran] - 1]
    across = (first_s[1:] - last_s[:-1])[id[1:] == id[:-1]]
    ones = np.ones(len(onward) + len(across), np.int64)
    return Pooled.of(np.concatenate((np.diff(clock), onward, across)), np.concatenate((spans.cumsum()[: max(steps - 1, 0)], ones)))
