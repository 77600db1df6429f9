"""Errors by metric and their limits, distances of distributions, effects of policies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from calibrate.agreement import LIMITED, METRICS, Effect, distance, effects, medians, rows

BY_KEY = {metric.key: metric for metric in METRICS}
GOOD: dict[str, Any] = {"mean_ttft_ms": 1000.0, "mean_tpot_ms": 50.0, "duration": 60.0, "effective_throughput": 200.0,
                        "mean_rebuffer_s": 4.0, "policy": "vllm", "itls": [[1.0]]}


def test_the_limits_are_the_issues() -> None:
    assert {metric.key: (metric.share, metric.absolute) for metric in LIMITED} == {
        "mean_ttft_ms": (0.10, None), "mean_tpot_ms": (0.10, None), "duration": (0.10, None), "effective_throughput": (0.15, None),
        "mean_rebuffer_s": (0.15, 0.2)}


@pytest.mark.parametrize(("key", "predicted", "measured", "ok"), [
    ("mean_ttft_ms", 1100.0, 1000.0, True), ("mean_ttft_ms", 1101.0, 1000.0, False), ("mean_ttft_ms", 899.0, 1000.0, False),
    ("effective_throughput", 114.9, 100.0, True), ("effective_throughput", 116.0, 100.0, False),
    ("mean_rebuffer_s", 0.2, 0.0, True), ("mean_rebuffer_s", 0.21, 0.0, False), ("mean_rebuffer_s", 11.4, 10.0, True),
    ("mean_rebuffer_s", 11.6, 10.0, False), ("mean_ttft_ms", None, 1000.0, False), ("mean_ttft_ms", None, None, True),
    ("p99_ttft_ms", 1.0, 1000.0, None)])
def test_one_of_the_limits_kept_is_enough(key: str, predicted: float | None, measured: float | None, ok: bool | None) -> None:
    assert BY_KEY[key].ok(predicted, measured) is ok


def test_measured_is_the_median_of_the_runs() -> None:
    runs = [GOOD | {"mean_ttft_ms": value} for value in (900.0, 1000.0, 2000.0)]
    row = next(row for row in rows(GOOD | {"mean_ttft_ms": 1050.0}, runs) if row.metric.key == "mean_ttft_ms")
    assert (row.measured, row.low, row.high) == (1000.0, 900.0, 2000.0)
    assert row.error == pytest.approx(0.05)
    assert row.ok
    assert medians(runs)["mean_ttft_ms"] == 1000.0
    assert "policy" not in medians(runs)
    assert "itls" not in medians(runs)


def test_what_nobody_knows_has_no_row_and_what_one_knows_no_error() -> None:
    found = {row.metric.key: row for row in rows(GOOD | {"preemptions": 0, "loads": 3}, [GOOD | {"preemptions": 0, "loads": None}])}
    assert "p99_itl_ms" not in found
    assert (found["loads"].measured, found["loads"].error) == (None, None)
    assert found["preemptions"].error == 0.0
    assert rows(GOOD | {"preemptions": 3}, [GOOD | {"preemptions": 0}])[-1].error is None


def test_distances_of_shifted_and_equal_distributions() -> None:
    rng = np.random.default_rng(0)
    ours = rng.exponential(1.0, 500)
    assert distance(ours, [ours]).ks == 0.0
    moved = distance(np.append(ours, np.nan), [ours + 0.25, ours + 0.25, ours + 9.0])
    assert moved.wasserstein_s == pytest.approx(0.25)
    assert 0.1 < (moved.ks or 0) < 0.4
    assert distance(ours, [np.full(3, np.nan)]).ks is None


def test_effects_are_against_the_first_policy() -> None:
    other = GOOD | {"mean_ttft_ms": 400.0, "mean_rebuffer_s": 5.0}
    measured = GOOD | {"mean_ttft_ms": 450.0, "mean_rebuffer_s": 4.5}
    found = {effect.metric.key: effect for effect in effects((other, GOOD), (measured, GOOD))}
    assert (found["mean_ttft_ms"].predicted, found["mean_ttft_ms"].measured) == (0.4, 0.45)
    assert (found["mean_rebuffer_s"].predicted, found["mean_rebuffer_s"].measured) == (1.0, 0.5)
    assert all(effect.agrees for effect in found.values())


@pytest.mark.parametrize(("key", "predicted", "measured", "agrees"), [
    ("duration", 0.5, 0.6, True), ("duration", 0.5, 0.8, False), ("duration", 0.9, 1.1, False), ("duration", 0.96, 1.04, True),
    ("duration", 2.0, 2.9, True), ("duration", 2.0, 3.1, False), ("duration", None, 1.0, None), ("duration", 0.0, 1.0, None),
    ("mean_rebuffer_s", 0.1, -0.2, True), ("mean_rebuffer_s", 0.1, -0.3, False), ("mean_rebuffer_s", 3.0, 1.0, True)])
def test_an_effect_agrees_in_sign_and_rough_size(key: str, predicted: float | None, measured: float, agrees: bool | None) -> None:
    assert Effect(BY_KEY[key], predicted, measured).agrees is agrees
