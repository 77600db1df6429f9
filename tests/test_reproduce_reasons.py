"""Why a claim does not come out as published: what is said comes from runs, and of whom; and what stands beside a verdict."""

from __future__ import annotations

from typing import Any

import pytest

from sim.intervals import Estimate
from sim.reproduce import page
from sim.reproduce.claims import CLAIMS
from sim.reproduce.items import ITEMS
from sim.reproduce.judging import Row, compared
from sim.reproduce.runs import Found, Run
from sim.reproduce.setups import How

HOW = How(seeds=2)
_PLAIN: dict[str, Any] = {
    "duration": 100.0, "output_throughput": 1000.0, "effective_throughput": 500.0, "mean_ttft_ms": 2000.0, "median_ttft_ms": 2000.0,
    "p99_ttft_ms": 4000.0, "mean_rebuffer_s": 0.5, "preemptions": 7, "gpu_busy_share": 1.0, "recomputed_tokens": 0,
    "d2h_bytes": 1e9, "h2d_bytes": 2e9, "residency": {"at_s": [1.0], "queued": [1.0], "running": [1.0], "queued_area": 10.0,
                                                      "running_area": 20.0}}


def told(item: str, **by_policy: dict[str, Any]) -> list[Row]:
    """The item's rows, were its runs all alike but for these values; policies with _ for -."""
    def values(run: Run) -> dict[str, Any]:
        return _PLAIN | by_policy.get(run.policy.replace("-", "_"), {})
    return ITEMS[item].tell(HOW, Found({run.key: values(run) for run in ITEMS[item].runs(HOW)})).rows


@pytest.mark.parametrize("item", ["fig12", "fig13", "fig14", "fig15", "fig16", "fig17", "fig20", "fig22", "fig23", "table2"])
def test_whatever_fails_says_why(item: str) -> None:
    rows = told(item)
    failed = [row for row in rows if row.verdict == "does not hold"]
    assert failed
    assert [row.claim for row in failed if not row.why] == []


@pytest.mark.parametrize("item", ["fig12", "fig14", "fig15", "fig16", "fig17", "fig20", "fig22", "fig23"])
def test_both_controls_stand_beside_a_verdict(item: str) -> None:
    for row in told(item):
        if row.policy.startswith("tokenflow"):
            assert row.to_controls is not None, row.claim
            assert set(row.to_controls) == {"sglang-ratecap", "fcfs-offload"}


def test_areas_are_held_against_those_of_controls() -> None:
    area = _PLAIN["residency"] | {"queued_area": 40.0}
    row = next(row for row in told("fig14", fcfs_offload={"residency": area}) if row.policy == "tokenflow")
    assert row.to_controls == {"sglang-ratecap": 1.0, "fcfs-offload": 0.25}


def test_arms_are_named_as_tokenflows() -> None:
    """In rows of tokenflow-paper too, where the corrected form stands beside them: not the bound is what costs."""
    slow = {"effective_throughput": 400.0}
    rows = [row for row in told("fig17", tokenflow_paper=slow, tokenflow={"effective_throughput": 1000.0})
            if row.policy == "tokenflow-paper" and row.baseline == "sglang" and row.claim == "poisson-effective"]
    row, = rows
    assert "`tokenflow`, with working set, fallback and utility mended: 2 s + 0.5 s, ratio x2" in row.why
    assert "`tokenflow` without the bound on rates (Eq. 6)" in row.why


def test_where_nobody_is_preempted_and_all_is_alike_there_is_nothing_to_gain() -> None:
    idle = {"preemptions": 0}
    row = next(row for row in told("fig12", sglang=idle, tokenflow=idle) if row.baseline == "sglang")
    assert row.why.endswith("at this load there is nothing to gain")
    assert "nothing to gain" not in next(row for row in told("fig12", sglang=idle) if row.baseline == "sglang").why


def test_a_gain_over_sglang_is_told_over_chunked_sglang_too() -> None:
    """That SGLang chunks by default may be all there is to a gain, whatever the verdict."""
    short = {"p99_ttft_ms": 800.0}
    rows = [row for row in told("fig16", tokenflow=short, sglang_chunked={"p99_ttft_ms": 400.0})
            if row.policy == "tokenflow" and row.baseline == "sglang" and row.claim in ("burst-p99", "burst-p99-every")]
    assert [(row.verdict, row.why) for row in rows] == [
        ("holds", "over `sglang-chunked`, SGLang as it comes: x2"),
        ("direction holds", "over `sglang-chunked`, SGLang as it comes: x2")]


def test_what_preemption_without_buffers_reaches_stands_beside_the_gain() -> None:
    runs = {run.key: _PLAIN | {"effective_throughput": {"tokenflow": 1000.0, "fastserve": 900.0}.get(run.policy, 500.0)}
            for run in ITEMS["gains"].runs(HOW)}
    shares, *_ = ITEMS["gains"].tell(HOW, Found(runs)).tables
    assert dict(zip(shares.columns, shares.rows[0]))["share: preemption without buffers (fastserve)"] == 0.8


def test_an_ablation_says_where_the_time_went() -> None:
    rows = told("table2", **{"tokenflow[offload=false]": {"recomputed_tokens": 5000, "d2h_bytes": 0.0, "h2d_bytes": 0.0}})
    row = next(row for row in rows if row.claim == "table2-offload" and row.policy.startswith("tokenflow["))
    assert row.why == ("the GPU computes 100 % of 100.0 s, 5,000 tokens computed again, 0 GB over the link, against "
                       "the GPU computes 100 % of 100.0 s, 0 tokens computed again, 3 GB over the link")


def test_a_sign_that_seeds_do_not_bear_out_is_said() -> None:
    claim = next(claim for claim in CLAIMS if claim.id == "fig22-ttft")
    found: dict[str, dict[str, Any]] = {}
    for run in ITEMS["fig22"].runs(HOW):
        quick = run.policy.endswith("[interval_s=0.5]")
        found[run.key] = _PLAIN | {"mean_ttft_ms": 2000.0 - (500.0 * (run.seed - 1) + 1 if quick else 0.0)}
    from sim.reproduce.setups import Setup, table1
    rows = compared("fig22", [table1("4090-b", HOW), Setup("burst-80", "burst-80")], HOW, Found(found))
    row = next(row for row in rows if row.claim == claim.id)
    assert row.verdict == "does not hold"
    assert row.why.startswith("the interval over seeds includes no change; ")


def test_the_ends_of_an_interval_are_told_as_its_mean_is() -> None:
    row = Row("id", "item", "Fig. 0", "says", "does not hold", ours=Estimate(869.0, -137.0, 1870.0, 3))
    assert page.ours(row) == "x869 (x-137 to x1.87e+03)"
    assert page.ours(Row("id", "item", "", "", "", ours=Estimate(1.2, 1.1, 3.3, 3))) == "+20.0 % (+10.0 % to x3.3)"
