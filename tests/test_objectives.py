"""Which way is better, who is ahead of whom, and what a limit allows."""

from __future__ import annotations

import pytest

from sim import simulate
from sim.intervals import estimate
from sim.report_terms import TERMS, measure_of
from sim.study.objectives import Limit, front, mean_ranks, objective, parse_limit, parse_objectives, percentiles_of, verdict
from traces import BadInput, make_trace


def test_the_better_way_is_what_the_report_says() -> None:
    for term in TERMS:
        for way in ("lower", "higher"):
            if f"{way.capitalize()} is better" in term.means:
                assert term.measures, term.name
                assert {measure.better for measure in term.measures} == {way}, term.name


def test_every_measure_is_a_number_of_the_summary() -> None:
    summary = simulate("vllm", make_trace([0.0, 0.1], 20, 5), goodput={"ttft": 1.0}).summary
    keys = [key for key in summary if measure_of(key) is not None]
    assert {"p99_ttft_ms", "effective_throughput", "mean_rebuffer_s", "goodput_share", "duration"} <= set(keys)
    assert all(isinstance(summary[key], int | float) for key in keys)
    assert measure_of("seed") is None
    assert measure_of("std_ttft_ms") is None


def test_objectives_and_their_directions() -> None:
    found = parse_objectives("p99_ttft_ms, effective_throughput,mean_rebuffer_s")
    assert [(each.better, each.unit) for each in found] == [("lower", "ms"), ("higher", "tokens/s"), ("lower", "s")]
    with pytest.raises(BadInput, match="did you mean 'p99_ttft_ms'"):
        parse_objectives("p99_tft_ms")
    with pytest.raises(BadInput, match="given twice"):
        parse_objectives("qos,qos")
    assert percentiles_of(["p95_ttft_ms", "p99_itl_ms", "p10_qoe", "preemptions", "p99.9_rebuffer_s"]) == ["95", "99.9"]


def test_the_front_is_whom_nobody_beats() -> None:
    both = parse_objectives("p99_ttft_ms,effective_throughput")
    values = {"fast": (1.0, 10.0), "full": (5.0, 90.0), "middle": (3.0, 50.0), "worse": (3.0, 40.0), "twin": (3.0, 50.0)}
    assert front(values, both) == ["fast", "full", "middle", "twin"]


def test_verdicts_on_paired_changes() -> None:
    wait = objective("--objective", "p99_ttft_ms")
    changes = ((-2.0, -2.1), (2.0, 2.1), (-2.0, 2.1), (0.0, 0.0), (0.0,), (-1.0,))
    assert [verdict(wait, estimate(each)) for each in changes] == ["better", "worse", "unclear", "the same", "the same", "better"]


def test_mean_ranks_share_ties() -> None:
    ranks = mean_ranks({"a": (1.0, 5.0), "b": (2.0, 5.0), "c": (3.0, 9.0)}, ["lower", "higher"])
    assert ranks == {"a": (1 + 2.5) / 2, "b": (2 + 2.5) / 2, "c": (3 + 1) / 2}


def test_limits() -> None:
    assert parse_limit("--most", "mean_rebuffer_s=0.5") == Limit("mean_rebuffer_s", True, 0.5, False)
    least = parse_limit("--least", "output_throughput=0.97x")
    assert least.excess(960.0, 1000.0) == pytest.approx(10 / 970)
    assert least.excess(980.0, 1000.0) < 0
    none = parse_limit("--most", "mean_rebuffer_s=0")
    assert (none.excess(0.0, 3.0), none.excess(0.2, 3.0)) == (0, 0.2)
    for bad in ("mean_rebuffer_s", "mean_rebuffer_s=x", "nosuch=3", "qos=inf"):
        with pytest.raises(BadInput, match="--most"):
            parse_limit("--most", bad)
