"""The summary of a run: vLLM's names and meanings, and ours, worked out by hand on a run small enough to read."""

from __future__ import annotations

import numpy as np
import pytest

from sim.metrics import per_request, serving_summary
from sim.records import Fate, Records
from traces import make_trace

VLLM_KEYS = {"duration", "completed", "failed", "total_input_tokens", "total_output_tokens", "request_throughput",
             "output_throughput", "total_token_throughput", "request_rate"} | {
    f"{kind}_{name}_ms" for kind in ("mean", "median", "std", "p99") for name in ("ttft", "tpot", "itl", "e2el")}


def by_hand() -> tuple[dict[str, object], Records]:
    """Four requests: two read at 1 token/s, one that nobody reads, one rejected.

    Tokens of request 0 at 1, 2, 4 s: it stalls once, for a second. Those of 1 at 3, 3, 3 s: no stall. Those of 2 at 9 s: one token.
    """
    trace = make_trace([0.0, 1.0, 1.5, 2.0], [10, 20, 30, 40], [3, 3, 1, 9], reader=[True, True, False, True],
                       dropped={"zero output tokens": 2})
    records = Records.of_token_times([0.0, 1.0, 1.5, 2.0], [np.array(t) for t in ([1.0, 2, 4], [3.0, 3, 3], [9.0], [99.0])])
    records.fate[3], records.tokens[3] = Fate.REJECTED, 0
    records.first_s[3] = records.last_s[3] = np.nan
    rates = np.ones(4)
    return serving_summary(trace, rates, records, per_request(trace, rates, records), end_s=50.0), records


def test_every_figure_by_hand() -> None:
    found, _ = by_hand()
    ttft, itl = [1.0, 2.0, 7.5], [1.0, 2.0, 0.0, 0.0]
    weights = 3 + 2         # before its third token, request 1 has one of three unread: more than a fifth
    expected = {
        "completed": 3, "failed": 1, "rejected": 1, "dropped_row": 2, "unfinished": 0, "requests": 6,
        "duration": 9.0, "total_input_tokens": 60, "total_output_tokens": 7, "generated_tokens": 7,
        "request_throughput": 3 / 9, "output_throughput": 7 / 9, "total_token_throughput": 67 / 9, "request_rate": 2.0,
        "mean_ttft_ms": 3500.0, "median_ttft_ms": 2000.0, "std_ttft_ms": 1000 * np.std(ttft),
        "p99_ttft_ms": 1000 * np.percentile(ttft, 99),
        "mean_tpot_ms": 750.0, "p99_tpot_ms": 1000 * np.percentile([1.5, 0.0], 99),
        "mean_itl_ms": 750.0, "median_itl_ms": 500.0, "std_itl_ms": 1000 * np.std(itl), "p99_itl_ms": 1000 * np.percentile(itl, 99),
        "mean_e2el_ms": 1000 * (4 + 2 + 7.5) / 3, "p99_e2el_ms": 1000 * np.percentile([4, 2, 7.5], 99),
        "mean_rebuffer_s": 0.5, "p99_rebuffer_s": 0.99, "rebuffers": 1, "stalled_share": 0.5, "ttft_over_1300ms_share": 2 / 3,
        "effective_throughput": weights / 9, "mean_token_weight": weights / 6, "qos": (weights - (1 + 2) - 1) / 9,
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert set(found) >= VLLM_KEYS


def test_unfinished_requests_count_for_what_they_got() -> None:
    """Stopped at 10 s: request 0 complete, 1 has two tokens of four, 2 none yet, 3 was never sent."""
    trace = make_trace([2.0, 2.0, 5.0, 12.0], 1, [2, 4, 4, 4])
    records = Records.of_token_times([2.0, 2.0, 5.0, np.nan], [np.array(t) for t in ([3.0, 4.0], [3.0, 4.0], [np.nan], [np.nan])])
    records.fate[1:], records.tokens[2:], records.segment_stop[2:] = Fate.UNFINISHED, 0, records.segment_start[2:]
    records.last_s[1:] = np.nan
    rates = np.ones(4)
    found = serving_summary(trace, rates, records, per_request(trace, rates, records), end_s=10.0)
    assert (found["completed"], found["unfinished"], found["failed"]) == (1, 3, 0)
    assert (found["duration"], found["total_output_tokens"], found["generated_tokens"]) == (8.0, 2, 4)
    assert found["effective_throughput"] == pytest.approx(4 / 8)
    assert found["qos"] == pytest.approx((4 - 1 - 1 - 5) / 8)
    assert found["mean_itl_ms"] == 1000.0


def test_undefined_is_nan_and_a_burst_has_no_rate() -> None:
    trace = make_trace([0.0, 0.0], 1, 1, reader=False)
    records = Records.of_token_times([0.0, 0.0], [np.array([1.0]), np.array([2.0])])
    found = serving_summary(trace, np.ones(2), records, per_request(trace, np.ones(2), records), end_s=2.0)
    assert found["request_rate"] == "inf"
    undefined = {key for key, value in found.items() if value != value}
    assert undefined == {f"{kind}_{name}_ms" for kind in ("mean", "median", "std", "p99") for name in ("tpot", "itl")} | {
        "effective_throughput", "mean_token_weight", "qos", "mean_rebuffer_s", "p99_rebuffer_s", "stalled_share"}
