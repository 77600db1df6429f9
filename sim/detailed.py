"""What vLLM's benchmark client notes of every request, as `vllm bench serve --save-detailed` writes it."""

from __future__ import annotations

from typing import Any

import numpy as np

from .records import Fate
from .result import Result


def request_lists(result: Result) -> dict[str, list[Any]]:
    """vLLM's lists by its names, an element per request of the trace, in seconds.

    Times count from the start of the simulation. `itls` are rounded to nanoseconds, the resolution of vLLM's clock. As there, a
    request that failed (here: rejected, or unfinished) has an error, output length 0, and 0 for every time it never came to;
    texts are empty, since nothing is said.
    """
    trace, records, metrics = result.trace, result.records, result.metrics
    completed = records.fate == Fate.COMPLETED
    served = records.fate != Fate.REJECTED
    return {
        "input_lens": trace.input_tokens.tolist(),
        "output_lens": np.where(completed, records.tokens, 0).tolist(),
        "ttfts": np.nan_to_num(metrics.ttft_s).tolist(),
        "itls": [np.diff(records.token_times_s(id)).round(9).tolist() for id in range(len(trace))],
        "latencies": np.nan_to_num(metrics.e2e_s).tolist(),
        "start_times": np.nan_to_num(records.sent_s).tolist(),
        "queue_times": np.where(served, np.nan_to_num(records.sent_s - trace.arrival_s), 0.0).tolist(),
        "generated_texts": [""] * len(trace),
        "errors": np.where((records.fate == Fate.UNFINISHED) & (records.reason == ""), "unfinished when the simulation stopped",
                           records.reason).tolist(),
    }
