"""Goodput: which requests are good, and how limits are written."""

from __future__ import annotations

import numpy as np
import pytest

from sim import BadInput, Result, simulate
from sim.goodput import parse_goodput, which_are_good
from sim.metrics import per_request
from sim.records import Fate, Records
from traces import generate, make_trace

TIMES = [[1.0, 2.0, 4.0], [3.0, 3.5, 4.0], [1.2], [0.5, 5.0], [0.5, 1.0]]


@pytest.mark.parametrize(("limits", "good"), [
    ({"ttft": 1200}, [True, False, True, True, False]),
    ({"tpot": 1500}, [True, True, True, False, False]),             # one token has no time per token, and meets any limit
    ({"e2el": 4000}, [True, True, True, False, False]),
    ({"rebuffer": 500}, [False, True, True, True, False]),          # nobody reads request 3: nothing stalls
    ({"rebuffer": 0}, [False, True, True, True, False]),
    ({"rebuffer": 1000}, [True, True, True, True, False]),
    ({"ttft": 3000, "tpot": 1500, "rebuffer": 500}, [False, True, True, False, False]),
    ({"ttft": 0.1}, [False] * 5),
])
def test_good_requests_meet_every_limit(limits: dict[str, float], good: list[bool]) -> None:
    """Readers take one token a second; the last request, quick as it is, was not finished."""
    trace = make_trace([0.0] * 5, 1, [3, 3, 1, 2, 9], reader=[True, True, True, False, True])
    records = Records.of_token_times([0.0] * 5, [np.array(times) for times in TIMES])
    records.fate[4] = Fate.UNFINISHED
    records.last_s[4] = np.nan
    requests = per_request(trace, np.ones(5), records)
    assert which_are_good(limits, requests, records.fate == Fate.COMPLETED).tolist() == good


def test_no_rebuffering_at_all_may_be_off_by_rounding() -> None:
    times = [0.7 + np.arange(400) * 0.1, 0.3 + np.cumsum(np.full(400, 0.1)), np.append(np.arange(3) * 0.1, 0.301)]
    trace = make_trace([0.0] * 3, 1, [400, 400, 4])
    records = Records.of_token_times([0.0] * 3, times)
    requests = per_request(trace, np.full(3, 10.0), records)
    assert (requests.reading.rebuffer_s > 0).all(), "or this is no test"
    assert which_are_good({"rebuffer": 0}, requests, np.ones(3, np.bool_)).tolist() == [True, True, False]


def test_as_vllm_counts() -> None:
    """The rule of vllm/benchmarks/serve.py, calculate_metrics, written out: a limit that is just met is met."""
    result = simulate("vllm", generate(40, input_len=100, output_len="normal:60:30", seed=2), kv_tokens=2_000,
                      goodput={"ttft": 1300.0, "tpot": 25.0, "e2el": 4000.0})
    rows, good = result.requests, 0
    for ttft, tpot, e2el in zip(rows["ttft_s"], rows["tpot_s"].fillna(0.0), rows["e2e_s"]):
        good += all(limit >= value for limit, value in zip((1.3, 0.025, 4.0), (ttft, tpot, e2el)))
    assert 0 < good < 40
    assert result.summary["request_goodput"] == good / result.summary["duration"]
    assert result.summary["goodput_share"] == good / 40
    assert result.summary["goodput"] == "ttft:1300,tpot:25,e2el:4000"
    assert result.requests["good"].sum() == good


def test_share_is_of_all_requests() -> None:
    """The rejected and the unfinished are not good."""
    trace = make_trace([0.0, 0.0, 0.1], [60_000, 10, 10], [10, 10, 4_000])
    result = simulate("vllm", trace, until_s=5.0, goodput={"ttft": 60_000})
    assert [result.summary[key] for key in ("completed", "rejected", "unfinished")] == [1, 1, 1]
    assert result.summary["goodput_share"] == pytest.approx(1 / 3)
    assert result.requests["good"].tolist() == [False, True, False]


def test_not_asked_for() -> None:
    result: Result = simulate("vllm", generate(2, output_len=5))
    assert [result.summary[key] for key in ("request_goodput", "goodput_share", "goodput")] == [None, None, None]
    assert "good" not in result.requests


@pytest.mark.parametrize("words", [["ttft:1300,tpot:50,rebuffer:500"], ["ttft:1300", "tpot:50", "rebuffer:500"],
                                   ["ttft:1300,tpot:50", " rebuffer : 5e2 "]])
def test_parse(words: list[str]) -> None:
    assert parse_goodput(words) == {"ttft": 1300.0, "tpot": 50.0, "rebuffer": 500.0}


@pytest.mark.parametrize("limits", [{"itl": 5}, {"ttft": 0}, {"ttft": -1}, {"ttft": float("nan")}, {"ttft": "5"}, {"ttft": True},
                                    {"e2el": float("inf")}, {"rebuffer": -1}, "ttft:5", ["ttft"]])
def test_bad_limits_from_python(limits: object) -> None:
    with pytest.raises(BadInput, match=r"^--goodput: .+: "):
        simulate("vllm", generate(2, output_len=5), goodput=limits)     # type: ignore[arg-type]
