"""What the engine does between two looks at the world: a run of steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.api import Floats, Ints


@dataclass(slots=True)
class Run:
    """Consecutive steps of one batch; with a prefill beside or instead of decodes it is a single step."""

    start_s: float
    ends_s: Floats                  #: of each step
    decoding: Ints                  #: rows that put out one token in each step
    prefilling: Ints                #: rows that compute a chunk of their prompts
    chunk: Ints                     #: its tokens
    completing: Ints                #: those of `prefilling` that put out a token
    unwritten: Floats | None = None     #: tokens without a host copy afterwards, of those written through, where followed

    @property
    def rows(self) -> Ints:
        """Everyone who computes."""
        return np.concatenate((self.decoding, self.prefilling))

    @property
    def tokens(self) -> Ints:
        """What each of `rows` computes in each step."""
        return np.concatenate((np.ones(len(self.decoding), np.int64), self.chunk))

    @property
    def speakers(self) -> Ints:
        """Rows that put out one token in each step."""
        return np.concatenate((self.decoding, self.completing))
