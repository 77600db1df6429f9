"""One stream of random numbers for each purpose, so that changing one choice leaves everything else as it was drawn."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from traces import options


class Purpose(IntEnum):
    """The number is a stream's identity: new purposes go to the end, or every seed changes its meaning."""

    ARRIVALS = 0
    INPUTS = 1
    OUTPUTS = 2
    RATES = 3
    TIES = 4


def stream(seed: int, purpose: Purpose) -> np.random.Generator:
    """The random numbers of one purpose. BadInput when `seed` is none."""
    return np.random.default_rng(np.random.SeedSequence(options.whole("--seed", seed, least=0), spawn_key=(int(purpose),)))
