"""Which steps a profiling measures, and in which order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibrate.profile_grid import DESIGNED, GROWTH_TOKENS, Limits, Point, designed, fits, grid
from sim.latency import LatencyModel

H200 = Limits(max_model_len=8192, max_num_seqs=1024, max_num_batched_tokens=8192, num_gpu_blocks=51_000, block_size=16)
RTX4090 = Limits(max_model_len=8192, max_num_seqs=256, max_num_batched_tokens=2048, num_gpu_blocks=2600, block_size=16)
CPU = Limits(max_model_len=4096, max_num_seqs=128, max_num_batched_tokens=2048, num_gpu_blocks=4096, block_size=128)
SMALL = Limits(max_model_len=256, max_num_seqs=4, max_num_batched_tokens=256, num_gpu_blocks=40, block_size=16)
MACHINES = pytest.mark.parametrize("limits", [H200, RTX4090, CPU, SMALL], ids=["h200", "rtx4090", "cpu", "small"])


def test_a_point_counts_tokens_context_pairs_and_requests() -> None:
    mixed = Point(decodes=8, context=500, chunks=2, chunk_tokens=100, done_tokens=300)
    assert (mixed.phase, mixed.batch, mixed.tokens_or_context) == ("mixed", 8, 500)
    assert (mixed.tokens, mixed.kv_tokens, mixed.seqs) == (208, 4000, 10)
    assert mixed.pairs == 2 * (100 * 300 + 100**2 / 2)
    prefill = Point(chunks=4, chunk_tokens=128)
    assert (prefill.phase, prefill.batch, prefill.tokens_or_context, prefill.tokens) == ("prefill", 4, 128, 512)
    assert Point(chunks=1, chunk_tokens=64, done_tokens=64).phase == "chunked"
    assert Point(3, 40).phase == "decode"


@MACHINES
def test_every_point_can_run(limits: Limits) -> None:
    points = grid(limits)
    assert len(points) == len(set(points)) == len({point.key for point in points})
    for point in points:
        assert point.seqs <= limits.max_num_seqs
        assert point.tokens <= limits.max_num_batched_tokens
        decode, prompt = point.context + GROWTH_TOKENS * (point.decodes > 0), point.done_tokens + point.chunk_tokens
        assert point.decodes * decode + point.chunks * prompt <= limits.kv_tokens
        assert max(decode, prompt) <= limits.max_model_len


@pytest.mark.parametrize(("limits", "change"), [
    (H200, {"max_num_batched_tokens": 99}), (H200, {"max_num_seqs": 9}), (H200, {"max_model_len": 571}),
    (H200, {"num_gpu_blocks": 368}), (H200, {"block_size": 7})])
def test_what_exceeds_one_limit_does_not_fit(limits: Limits, change: dict[str, int]) -> None:
    point = Point(decodes=9, context=500, chunks=1, chunk_tokens=91, done_tokens=320)
    assert fits(point, limits)
    assert not fits(point, replace(limits, **change))


@MACHINES
def test_the_designed_points_come_first(limits: Limits) -> None:
    first = designed(limits)
    assert len(first) == DESIGNED
    assert grid(limits)[:DESIGNED] == first
    assert {"decode", "prefill"} <= {point.phase for point in first}


def test_the_designed_points_reach_the_corners() -> None:
    points = designed(H200)
    assert max(point.decodes for point in points) == H200.max_num_seqs
    assert max(point.tokens for point in points) >= 0.99 * H200.max_num_batched_tokens
    assert max(point.kv_tokens for point in points) >= 0.85 * H200.kv_tokens
    assert min(point.tokens for point in points) == 1
    assert 6 <= sum(point.phase == "decode" for point in points) <= 8


@MACHINES
def test_the_designed_points_tell_the_terms_apart(limits: Limits) -> None:
    """The step time's derivatives by its coefficients are independent over them."""
    model = LatencyModel(5e-3, 18e-6, 28e-9, 0.9e-9, 3e-6, 1.8)
    base = np.array([5e-3, 18e-6, 28e-9, 0.9e-9, 3e-6])

    def times(coefficients: np.ndarray) -> np.ndarray:
        model = LatencyModel(*coefficients.tolist(), 1.8)
        return np.array([model.step_s(p.tokens, p.kv_tokens, p.pairs, p.seqs) for p in designed(limits)])

    scaled = np.array([model.step_s(p.tokens, p.kv_tokens, p.pairs, p.seqs) for p in designed(limits)])
    jacobian = np.array([(times(base * (1 + 0.01 * (np.arange(5) == i))) - scaled) / scaled for i in range(5)]).T
    jacobian /= np.linalg.norm(jacobian, axis=0)
    assert np.linalg.svd(jacobian)[1].min() > 0.01


def test_a_large_machine_has_every_phase() -> None:
    points = grid(H200)
    counts = {phase: sum(point.phase == phase for point in points) for phase in ("prefill", "decode", "mixed", "chunked")}
    assert counts["prefill"] >= 40
    assert counts["decode"] >= 60
    assert counts["mixed"] >= 12
    assert counts["chunked"] >= 6
    assert {point.phase for point in points[DESIGNED:2 * DESIGNED]} >= {"mixed", "chunked"}
    knee = {point.tokens for point in points if point.phase == "prefill"}
    assert {128, 192, 256, 384} <= knee


def test_a_machine_without_room_has_no_points() -> None:
    assert grid(replace(SMALL, num_gpu_blocks=0)) == []
