"""How long one engine step takes.

    t = ((m^p + (g T)^p)^(1/p)) + b KV + q S + r N + host

T tokens computed in the step, KV context that its decodes attend to, S query-key pairs of its prefill chunks (c d + c^2/2
for a chunk c after d tokens), N requests in it. Six fitted coefficients and the host time; where they come from is in
the hardware profile.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np

from policies.api import Floats

_COUNT = np.arange(1024.0)


@dataclass(frozen=True)
class LatencyModel:
    """Coefficients in seconds; every non-empty step takes a positive time."""

    weights_s: float        #: m: reading the weights once
    token_s: float          #: g: compute per token of the step
    kv_token_s: float       #: b: per token of context that decodes attend to
    pair_s: float           #: q: per query-key pair of prefill attention
    seq_s: float            #: r: per request in the step
    knee: float             #: p: how sharply memory-bound turns into compute-bound
    host_s: float = 0.0     #: scheduling, launch and sampling that the GPU waits for

    def __post_init__(self) -> None:
        for name in ("weights_s", "token_s", "kv_token_s", "pair_s", "seq_s", "host_s"):
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number of seconds, zero or more, got {value}")
        if not (isfinite(self.knee) and self.knee >= 1):
            raise ValueError(f"knee must be at least 1, got {self.knee}")
        if self.weights_s + self.token_s <= 0:
            raise ValueError("weights_s and token_s are both zero: a step would take no time")

    def step_s(self, tokens: float, kv_tokens: float, pairs: float, seqs: float) -> float:
        """Seconds of one step (symbols T, KV, S, N above)."""
        matmul: float = (self.weights_s**self.knee + (self.token_s * tokens) ** self.knee) ** (1 / self.knee)
        return matmul + self.kv_token_s * kv_tokens + self.pair_s * pairs + self.seq_s * seqs + self.host_s

    def decode_ends_s(self, start_s: float, seqs: int, first_s: float, steps: int) -> Floats:
        """When each of `steps` consecutive decode steps of the same `seqs` requests ends, shape (steps,).

        `first_s`: what the first takes; their context grows by `seqs` a step. Summed one after the other, as a clock does.
        """
        if steps == 1:
            return np.array([start_s + first_s])
        took: Floats = (_COUNT[:steps] if steps <= len(_COUNT) else np.arange(float(steps))) * (self.kv_token_s * seqs)
        took += first_s
        took[0] += start_s
        ends: Floats = np.add.accumulate(took, out=took)
        return ends
