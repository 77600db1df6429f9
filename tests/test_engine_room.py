"""For how many decode steps blocks are found, against taking them step by step."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from calibrate.engine.room import steps_that_fit
from calibrate.engine.stream import Stream

BLOCK = 4


def step_by_step(decoding: list[int], copied: list[int], gpu_blocks: int, host_blocks: int) -> int:
    """Tokens computed, of who decodes and of whose of them is written through."""
    for step in range(10_000):
        takes, copies = (sum((tokens + step) % BLOCK == 0 for tokens in who) for who in (decoding, copied))
        gpu_blocks, host_blocks = gpu_blocks - takes, host_blocks - copies
        if gpu_blocks < 0 or (copies and host_blocks < 0):
            return step
    raise AssertionError("there is always an end")


@pytest.mark.parametrize("seed", range(40))
def test_as_many_as_step_by_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 50, rng.integers(1, 12)).tolist()
    streams = [Stream(SimpleNamespace(num_computed_tokens=n), id, 0.0, 0.0) for id, n in enumerate(tokens)]
    pauses = Stream(SimpleNamespace(num_computed_tokens=BLOCK), 99, 0.0, 0.0)
    stored = [id for id in range(len(tokens)) if rng.random() < 0.5]
    gpu, host = (int(blocks) for blocks in rng.integers(0, 40, 2))
    fit = steps_that_fit(streams, [pauses, *(streams[id] for id in stored)], gpu, host, BLOCK)
    assert fit == step_by_step(tokens, [tokens[id] for id in stored], gpu, host)


def test_nobody_decodes() -> None:
    assert steps_that_fit([], [], 0, 0, BLOCK) == 1


def test_a_host_pool_that_is_owed_blocks() -> None:
    """What was promised to who is written through may be more than there is; it matters once one more is taken."""
    streams = [Stream(SimpleNamespace(num_computed_tokens=BLOCK - 2), 0, 0.0, 0.0)]
    assert steps_that_fit(streams, streams, 10, -3, BLOCK) == 2
