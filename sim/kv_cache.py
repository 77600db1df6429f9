"""GPU and host blocks: how many are free. The host pool is inclusive: a resident's copy holds blocks there as well."""

from __future__ import annotations

from policies.api import HOLDS_BLOCKS, Bools, Ints, Residency, blocks_for, host_blocks

from .machine import Machine
from .requests import Requests


class KVCache:
    """Counts blocks of both tiers; `held` counts them anew from the requests, to check."""

    def __init__(self, machine: Machine, requests: Requests) -> None:
        self._requests, self.block_size = requests, machine.block_size
        self.total = self.free = machine.kv_blocks
        self.host_total = self.host_free = machine.host_kv_blocks
        self.orphaned = 0           #: GPU blocks that copies still fill whose requests are gone

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

    def host_blocks(self, storing: Bools | None = None) -> Ints:
        """Host blocks of each row: for the whole KV of who is away or is written through (`storing`, marks), else for the copy."""
        q, n = self._requests, self._requests.n
        whole = q.residency[:n] >= Residency.HOST
        if storing is not None:
            whole |= storing
        return host_blocks(whole, q.computed_tokens[:n], q.host_tokens[:n], self.block_size)

    def host_held(self, storing: Bools | None = None) -> int:
        return int(self.host_blocks(storing).sum())

    def recount_host(self, storing: Bools | None = None) -> Ints:
        """Count the free blocks anew; returns `host_blocks`."""
        held = self.host_blocks(storing)
        self.host_free = self.host_total - int(held.sum())
        return held
