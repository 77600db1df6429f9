"""Random machines and bursts of requests, from one seed each."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

import numpy as np

from sim.latency import LatencyModel
from sim.machine import Machine
from traces.pace import Changes

H200 = LatencyModel(weights_s=4.98e-3, token_s=1.85e-5, kv_token_s=2.84e-8, pair_s=9.3e-10, seq_s=3.05e-6, knee=1.77, host_s=8e-4)
A100 = LatencyModel(weights_s=9.5e-3, token_s=6.0e-5, kv_token_s=7.5e-8, pair_s=3.1e-9, seq_s=2.2e-5, knee=1.6, host_s=1e-3)


class Ask(NamedTuple):
    """One request of a load."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    consumption_rate: float
    priority: float
    ttft_slo_s: float
    tpot_slo_s: float
    reader: bool
    rate_changes: Changes = ()
    stops_after: int = 0        #: tokens; 0: it says all that it may
    gives_up_s: float = inf     #: when its client does, after it came

    @property
    def final_tokens(self) -> int:
        return self.stops_after or self.output_tokens


def load(seed: int, requests: int, longest_prompt: int, longest_output: int) -> list[Ask]:
    """Poisson arrivals, in some loads half of them or all but a few at one instant."""
    rng = np.random.default_rng([seed, 1])
    gaps = rng.exponential(1 / rng.uniform(2, 20), requests) * (rng.random(requests) > rng.choice([0.0, 0.5, 0.9]))
    slo = rng.choice([np.nan, 0.5, 2.0], (2, requests))
    prompts, outputs = (rng.integers(1, longest + 1, requests).tolist() for longest in (longest_prompt, longest_output))
    rates, weights = rng.uniform(3, 30, requests).tolist(), rng.choice([0.5, 1.0, 4.0], requests).tolist()
    readers = (rng.random(requests) < 0.9).tolist()
    changes = [_changes(rng, output) for output in outputs]
    stops, patience = np.random.default_rng([seed, 4]).random((2, requests))
    return [Ask(*ask) for ask in zip(gaps.cumsum().tolist(), prompts, outputs, rates, weights, slo[0].tolist(),
                                     (slo[1] / 10).tolist(), readers, changes,
                                     [1 + int(share * output) if share < 0.3 else 0 for share, output in zip(stops, outputs)],
                                     [20 * share if share < 0.15 else inf for share in patience])]


def _changes(rng: np.random.Generator, output_tokens: int) -> Changes:
    """Of a reader: mostly none."""
    tokens = np.unique(rng.integers(1, output_tokens + 2, rng.choice([0, 0, 1, 4])))
    return tuple((token, float(rng.uniform(3, 30))) for token in tokens.tolist())


def machine(seed: int, longest: int, memory: str, host: str) -> Machine:
    """Memory for `longest` tokens (of the largest request) a few times ("tight") or often ("ample"), and a host pool or "none"."""
    rng = np.random.default_rng([seed, 2])
    block_size = int(rng.choice([1, 16, 32]))
    tokens = longest * {"tight": rng.uniform(1.1, 4.0), "ample": 25.0}[memory]
    host_tokens = tokens * {"none": 0.0, "tight": rng.uniform(0.2, 0.8), "ample": 5.0}[host]
    max_seqs = int(rng.choice([8, 24, 64]))
    believed_step, believed_link = [(1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (1.6, 1.0), (0.6, 1.5), (1.0, 0.5)][int(rng.integers(6))]
    rate = float(rng.choice([0.4e9, 4e9, 25e9]))
    return Machine((H200, A100)[seed % 2], int(tokens // block_size) + 1, int(host_tokens // block_size), block_size,
                   max_seqs=max_seqs, max_step_tokens=int(rng.choice([max_seqs, 256, 2048])), h2d_bytes_per_s=rate,
                   d2h_bytes_per_s=rate * float(rng.choice([0.5, 1.0])), copies_per_block=int(rng.choice([1, 64])),
                   believed_step=believed_step, believed_link=believed_link, duplex_h2d=float(rng.choice([0.3, 0.64, 1.0])),
                   duplex_d2h=float(rng.choice([0.3, 0.96, 1.0])), write_whole_blocks=True)
