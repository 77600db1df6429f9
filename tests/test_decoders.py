"""Decoders: rows and blocks after any runs, joins and pauses, against requests followed one by one."""

from __future__ import annotations

import numpy as np
import pytest
from builders import machine

from policies.api import decode_steps_that_fit
from sim.decoders import Decoders
from sim.kv_cache import KVCache
from sim.requests import Requests
from sim.step_clock import StepClock


@pytest.mark.parametrize("block_size", [1, 10, 16])
@pytest.mark.parametrize("seed", range(8))
def test_rows_and_blocks_agree_with_requests_followed_one_by_one(seed: int, block_size: int) -> None:
    rng = np.random.default_rng(seed)
    q, clock = Requests(), StepClock()
    kv = KVCache(machine(kv_blocks=400, block_size=block_size), q)
    decoders = Decoders(q, clock, kv)
    prompts = rng.integers(1, 40, 12)
    for id, prompt in enumerate(prompts.tolist()):
        q.add(id, 0.0, prompt, 500, 500, 20.0)
    q.computed_tokens[:12], q.output_tokens[:12], q.residency[:12] = prompts, 1, 1
    kv.free = free = kv.total - kv.held()
    followed = dict.fromkeys(range(12), 0)      # steps that each has decoded
    decoding: list[int] = []
    for _ in range(60):
        idle = [row for row in range(12) if row not in decoding]
        if rng.random() < 0.4 and idle:
            came = rng.choice(idle, rng.integers(1, len(idle) + 1), replace=False)
            decoders.join(np.array(came))
            decoding = sorted([*decoding, *came.tolist()])
        elif rng.random() < 0.3:
            decoding = sorted(rng.choice(12, rng.integers(0, 12), replace=False).tolist())
            decoders.settle()
            decoders.become(np.array(decoding, np.int64))
        tokens = np.array([prompts[row] + followed[row] for row in decoding], np.int64)
        fits, exact = decoders.steps_that_fit(), decode_steps_that_fit(tokens, kv.free, block_size)
        assert fits == exact
        if not fits:
            continue
        steps = int(rng.integers(1, min(fits, 40) + 1))
        decoders.advance(clock.steps + 1.0 + np.arange(steps))
        for row in decoding:
            followed[row] += steps
        after = prompts + np.array([*followed.values()])
        assert kv.free == free - int((-(-after // block_size) - -(-prompts // block_size)).sum()), "without a look at the rows"
        assert decoders.kv_tokens == int(after[decoding].sum())
        if rng.random() < 0.3:
            decoders.settle()
            assert q.computed_tokens[:12].tolist() == after.tolist()
            assert q.output_tokens[:12].tolist() == [1 + steps for steps in followed.values()]
