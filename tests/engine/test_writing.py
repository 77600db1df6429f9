"""What the real host tier has written before a request leaves, and what it counts and charges where it has not."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from test_lockstep import tokenflow

from policies.tokenflow import TokenFlow

pytestmark = pytest.mark.engine


class Ledger:
    """Evictions of one run: blocks copied then, seconds it was written through before, seconds since anything had to wait."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.tier, self.rows, self.waited_s = engine, engine.host.tier, [], -np.inf
        self._evict, self._take, self._hidden = self.tier.evict, self.tier.take_orders, self.tier.hidden_blocks
        self.tier.evict, self.tier.take_orders, self.tier.hidden_blocks = self.evict, self.take_orders, self.hidden_blocks
        self.room = np.inf                          # for the step that is being scheduled, in blocks
        self.tokens, self.since_s = 0.0, dict[str, float]()

    def hidden_blocks(self, step_s: float) -> float:
        self.room = self._hidden(step_s)
        return self.room

    def take_orders(self) -> Any:
        """With every step: who is written through, and since when; and whether full blocks wait because the step hides no more."""
        now_s, vllm = self.engine.env.now, self.engine.vllm
        self.since_s = {stream.name: self.since_s.get(stream.name, now_s) for stream in vllm.storing}
        written, bs = {stream.name: tokens for stream, tokens in vllm.writing}, vllm.block_size
        left = any(written.get(stream.name, stream.host_tokens) // bs < stream.computed_tokens // bs for stream in vllm.storing)
        if left and self.room - len(self.tier._copies.write) < 1:
            self.waited_s = now_s
        self.room = np.inf
        return self._take()

    def evict(self, name: str, first: int, blocks: list[int]) -> None:
        stream, now_s = self.engine.vllm.named[name], self.engine.env.now
        self.rows.append((len(blocks), now_s - max(stream.moved_s, self.since_s.get(name, now_s)), now_s - self.waited_s))
        self.tokens += stream.computed_tokens - stream.host_tokens
        self._evict(name, first, blocks)


def ledger(fake: ModuleType, seed: int, rate: float) -> Ledger:
    _, asks, on = tokenflow(seed)
    on = replace(on, host_kv_blocks=4 * on.kv_blocks, h2d_bytes_per_s=rate, d2h_bytes_per_s=rate, believed_step=1.0,
                 believed_link=1.0)
    engine = fake.FakeEngine(asks, TokenFlow(interval_s=1.0), on)
    seen = Ledger(engine)
    engine.run()
    assert seen.tokens == pytest.approx(engine.vllm.count.unwritten_tokens)
    return seen


def test_at_most_one_block_is_left_to_write(fake: ModuleType) -> None:
    """Of a request that has been written through for a second, while nothing waited to be written."""
    rows = [row for seed in range(1, 8) for row in ledger(fake, seed, 25e9).rows]
    settled = [blocks for blocks, here_s, calm_s in rows if min(here_s, calm_s) >= 1]
    assert len(settled) > 60
    assert max(settled) == 1


def test_a_backlog_is_counted_and_charged(fake: ModuleType) -> None:
    """On a slow link more is left, all of it is counted, and the link takes its time for it."""
    fast, slow = ledger(fake, 1, 25e9), ledger(fake, 1, 2e8)
    assert max(blocks for blocks, _, _ in slow.rows) > 4
    evicted = sum(blocks for blocks, _, _ in slow.rows)
    written = slow.tier._writer.tokens / slow.tier._block_size
    totals, link = slow.tier.totals(), slow.tier._links.d2h
    assert totals["d2h_bytes"] == pytest.approx((evicted + written) * slow.tier._block_bytes)
    assert totals["d2h_busy_s"] == pytest.approx((evicted + written) * link.block_s)
    assert slow.tokens / len(slow.rows) > 2 * fast.tokens / len(fast.rows)
