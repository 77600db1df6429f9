"""Write-through in whole blocks, as an engine does it whose KV blocks hold more than one token.

A block is written once it is full; what is in the last, unfinished one has no copy until the request leaves the GPU. Between two
looks, "keeps up" is judged by bounds (every decoder may have filled a block in the last step); where they do not hold, steps are
taken one by one.
"""

from __future__ import annotations

import numpy as np

from policies.api import Bools, Floats, Ints

from .host_copies import HostCopies


class BlockCopies(HostCopies):
    def _waiting(self, rows: Ints) -> float:
        return float(self._full_blocks(rows).sum()) * self._kv.block_size

    def _full_blocks(self, rows: Ints) -> Ints:
        """Full blocks without a copy, one number each."""
        q, bs = self._requests, self._kv.block_size
        blocks: Ints = q.computed_tokens[rows] // bs - q.host_tokens[rows].astype(np.int64) // bs
        return blocks

    def keep_up(self, start_s: float, ends_s: Floats, decodes: bool) -> bool:
        most = float(self._growing * self._kv.block_size) if decodes else 0.0
        if not self._writer.keeps_up(start_s, float(ends_s[0]), self._unwritten, most if len(ends_s) > 1 else 0.0):
            return False
        self._writer.chunks += len(ends_s)
        self._unwritten, self._kept_up, self._last_decoded = most, True, decodes
        return True

    def follow(self, start_s: float, ends_s: Floats, made: Floats) -> tuple[Floats, Floats]:
        q, rows, bs, writer = self._requests, self.rows, self._kv.block_size, self._writer
        ends_s, full = ends_s[:1], self._full_blocks(rows)
        before = full.cumsum() - full
        written = np.clip(writer.hidden_blocks(start_s, float(ends_s[0])) - before, 0, full)
        chunk = float(written.sum()) * bs
        if chunk and not writer.exact:
            ends_s = np.array([writer.outlasting(start_s, float(ends_s[0]), chunk)])
        writer.wrote(chunk, 1)
        host = q.host_tokens[rows]
        host = np.where(written > 0, (host // bs + written) * bs, host)
        return q.computed_tokens[rows] + made - host, ends_s

    def _complete(self, rows: Ints, fresh: Bools | int) -> None:
        """All blocks have a copy that were full when those tokens were not there yet."""
        q, bs = self._requests, self._kv.block_size
        host = q.host_tokens[rows]
        complete = np.maximum((q.computed_tokens[rows] - fresh) // bs * bs, host)
        self._writer.wrote(float((complete // bs - host // bs).sum()) * bs, 0)
        q.host_tokens[rows] = complete
