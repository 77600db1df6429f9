"""Quality of experience as Andes defines it (arXiv 2404.16283v2): QoE = 1 - S_delay / S_whole.

Two curves of tokens read over time. The expected one begins `EXPECTED_TTFT_S` after sending and rises by r tokens a second:
token j, counted from 0, is due at c*_j = expected TTFT + j/r. The actual one has token j at c_j = max(t_j, c_(j-1) + 1/r), and
c_0 = max(t_0, expected TTFT): whoever gets the first token early begins no sooner, so that nothing makes up for a later delay
and QoE never exceeds 1. Reading one token takes 1/r; the reader is through with the last of n at T_end = c_(n-1) + 1/r.

S_delay is the area between the curves, the sum of c_j - c*_j. S_whole is the area under the expected curve until T_end, which is
S_delay and the area under the actual one: n (T_end - expected TTFT) - n^2 / 2r.

With L the delay of the first token against its expectation and M_j the stalls until token j, c_j - c*_j = max(L + M_j, 0) = d_j:
QoE = 1 - mean(d) / (d_(n-1) + n / 2r). Of a reader whose rate changes, 1/r is each token's own, and n / 2r becomes the mean time
from the middle of a token to the end of all. `qos` is TokenFlow's, a throughput; `qoe` is this.
"""

from __future__ import annotations

import numpy as np

from policies.api import Floats, Ints

EXPECTED_TTFT_S = 1.0       #: of all requests in the traces of Andes' artifact; a trace's own target (ttft_slo_s) comes first


def qoe(late_s: Floats, tokens: Ints, rates: Floats, stalled_s: Floats | None = None) -> Floats:
    """QoE of m requests, in (0, 1].

    `late_s`: how much later than expected the first token came, negative when earlier; `tokens`: how many came, at least one.
    `stalled_s`: stalls until each token, ascending, shape (m, k), the rows' last value repeated after their last token; None: none.
    """
    if stalled_s is None:
        last = mean = np.maximum(late_s, 0.0)
    else:
        delays = stalled_s + late_s[:, None]
        np.maximum(delays, 0.0, out=delays)
        last = delays[:, -1]
        mean = (delays.sum(axis=1) - (delays.shape[1] - tokens) * last) / tokens
    found: Floats = 1.0 - mean / (last + tokens / (2.0 * rates))
    return found
