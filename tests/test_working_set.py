"""The most KV that admitted requests hold at once, held to a walk along the time line."""

from __future__ import annotations

from inspect import signature

import numpy as np
import pytest

from policies.api import View
from policies.working_set import paper_limit, peak_tokens


def view(prompt: list[int], output: list[int], most: list[int], rate: list[float], blocks: int = 100, host: int = 200) -> View:
    """Of these requests nothing else counts."""
    given = dict.fromkeys(signature(View).parameters) | {
        "prompt_tokens": np.array(prompt), "output_tokens": np.array(output), "max_tokens": np.array(most),
        "consumption_rate": np.array(rate), "total_blocks": blocks, "host_total_blocks": host, "block_size": 16}
    return View(**given)  # type: ignore[arg-type]


def test_who_ends_first_leaves_room_for_the_others() -> None:
    # the first ends after 5 s with 400 tokens, when the second has 300; the second ends after 10 s with 400
    both = view([200, 150], [100, 50], [200, 250], [20.0, 20.0])
    assert peak_tokens(both, np.array([0, 1])) == 700
    assert peak_tokens(both, np.array([1])) == 400
    assert peak_tokens(both, np.array([], np.int64)) == 0
    slow = view([200, 150], [100, 50], [200, 250], [20.0, 2.0])
    assert peak_tokens(slow, np.array([0, 1])) == 400 + 210


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_largest_sum_along_the_time_line(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 30))
    most = rng.integers(1, 400, n)
    output = (most * rng.uniform(0, 0.9, n)).astype(int)
    drawn = view(rng.integers(1, 500, n).tolist(), output.tolist(), most.tolist(), rng.uniform(1, 40, n).tolist())
    rows = np.sort(rng.permutation(n)[: int(rng.integers(1, n + 1))])
    now, rate = (drawn.prompt_tokens + drawn.output_tokens)[rows], drawn.consumption_rate[rows]
    ends_s = (most - output)[rows] / rate
    walked = max(float((now + rate * at_s)[ends_s >= at_s].sum()) for at_s in ends_s)
    assert peak_tokens(drawn, rows) == pytest.approx(walked)


def test_the_papers_limit_grows_with_who_runs_until_the_gpu_is_full() -> None:
    empty = view([10], [0], [10], [20.0])
    # 3,200 tokens on the host and 1,600 on the GPU, 100 a request
    assert [paper_limit(empty, 100.0, running, 0.5) for running in (0, 8, 15, 16, 40)] == [16, 20, 23.5, 32, 32]
