"""The summary of a run: vLLM's names and meanings, and ours, worked out by hand on a run small enough to read."""

from __future__ import annotations

import numpy as np
import pytest

from sim import BadInput, simulate
from sim.metrics import per_request, serving_summary
from sim.percentiles import parse_percentiles
from sim.records import Fate, Records
from traces import generate, make_trace

VLLM_KEYS = {"duration", "completed", "failed", "total_input_tokens", "total_output_tokens", "request_throughput",
             "output_throughput", "total_token_throughput", "request_rate", "request_goodput"} | {
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
        # both get their first token late or stall: 0, 0, 1 s and 1 s each; read in three seconds
        "lost_fluency_share": 0.5, "mean_qoe": ((1 - 1 / 3 / 2.5) + (1 - 1 / 2.5)) / 2, "p10_qoe": 0.6 + 0.1 * (2 / 3 / 2.5),
        "request_goodput": None, "goodput_share": None,
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
        "effective_throughput", "mean_token_weight", "qos", "mean_rebuffer_s", "p99_rebuffer_s", "stalled_share",
        "lost_fluency_share", "mean_qoe", "p10_qoe"}


def test_percentiles_asked_for_come_beside_p99() -> None:
    """Keys as vLLM writes them; P50 is the median."""
    trace, rates = make_trace([0.0] * 40, 1, 30), np.full(40, 20.0)
    rng = np.random.default_rng(1)
    records = Records.of_token_times([0.0] * 40, [np.sort(rng.uniform(0, 3, 30)) for _ in range(40)])
    requests = per_request(trace, rates, records)
    found = serving_summary(trace, rates, records, requests, 3.0, percentiles=(99.9, 50, 90.0, 90))
    usual = serving_summary(trace, rates, records, requests, 3.0)
    names = ("ttft_ms", "tpot_ms", "itl_ms", "e2el_ms", "rebuffer_s")
    assert set(found) - set(usual) == {f"{p}_{name}" for p in ("p50", "p90", "p99.9") for name in names}
    assert {key: found[key] for key in usual} == usual
    assert [key for key in found if key.endswith("_ttft_ms")][3:] == ["p50_ttft_ms", "p90_ttft_ms", "p99_ttft_ms", "p99.9_ttft_ms"]
    assert found["p50_itl_ms"] == found["median_itl_ms"]
    assert found["p99.9_ttft_ms"] == 1000 * np.percentile(requests.ttft_s, 99.9)
    assert found["p90_rebuffer_s"] == np.percentile(requests.reading.rebuffer_s, 90) > 0


@pytest.mark.parametrize("percentiles", [(0,), (101,), (np.nan,), ("99",), (True,), "99", 99, [50, -1]])
def test_percentiles_that_are_none(percentiles: object) -> None:
    with pytest.raises(BadInput, match=r"^--metric-percentiles: .+: must be "):
        simulate("vllm", generate(2, output_len=5), percentiles=percentiles)    # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "percentiles"), [("99", (99.0,)), ("50,90, 99.9 ", (50.0, 90.0, 99.9)), ("100", (100.0,))])
def test_percentiles_as_text(text: str, percentiles: tuple[float, ...]) -> None:
    assert parse_percentiles(text) == percentiles
