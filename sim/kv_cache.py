"""GPU and host blocks: how many are free. The host pool is inclusive: a resident's copy holds blocks there as well."""

from __future__ import annotations

import numpy as np

from policies.api import HOLDS_BLOCKS, Bools, Ints, Residency, blocks_for

from .machine import Machine
from .requests import Requests


class KVCache:
    """Counts blocks of both tiers; `held` counts them anew from the requests, to check."""

    def __init__(self, machine: Machine, requests: Requests) -> None:
        self._requests, self.block_size = requests, machine.block_size
        self.total = self.free = machine.kv_blocks
        self.host_total = self.host_free = machine.host_kv_blocks
        self.orphaned = 0           #: GPU blocks that copies still fill whose requests are gone

    def more_blocks(self, tokens: Ints, more: Ints, most: int) -> int:
        """Blocks that requests with so many tokens need more for `more` tokens each, none of which is above `most`."""
        bs = self.block_size
        if most <= bs:                                  # one block at most
            return int(np.count_nonzero((tokens - 1) % bs + more >= bs))
        return int(((tokens + more - 1) // bs - (tokens - 1) // bs).sum())

    def seat(self, row: int) -> None:
        self.free -= self.blocks(row)

    def unseat(self, row: int) -> None:
        self.free += self.blocks(row)

    def blocks(self, row: int) -> int:
        return -(-int(self._requests.computed_tokens[row]) // self.block_size)

    def unwritten_blocks(self, row: int) -> int:
        """Blocks that hold any token without a host copy."""
        return self.blocks(row) - int(self._requests.host_tokens[row]) // self.block_size

    def held(self) -> int:
        q, n = self._requests, self._requests.n
        blocks = blocks_for(q.computed_tokens[:n], self.block_size)
        return int(blocks[HOLDS_BLOCKS[q.residency[:n]]].sum()) + self.orphaned

    def host_held(self, storing: Bools | None = None) -> int:
        """Host blocks held: of the whole KV by who is away or being written through (`storing`, shape (n,)), else of the copy."""
        q, n = self._requests, self._requests.n
        whole = q.residency[:n] >= Residency.HOST
        if storing is not None:
            whole = whole | storing
        tokens = np.where(whole, q.computed_tokens[:n], np.ceil(q.host_tokens[:n]).astype(np.int64))
        return int(blocks_for(tokens, self.block_size).sum())

    def recount_host(self, storing: Bools | None = None) -> None:
        self.host_free = self.host_total - self.host_held(storing)
