"""Does a workload fit its machine? What it asks for against what the machine can put out, from the profile alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from traces import Trace

from .hardware import build_machine
from .machine import Machine
from .simulate import DEFAULT_CONSUME_TPS
from .workloads import Workload

_SAMPLE = 100_000       # requests, for the means of any law of lengths


@dataclass(frozen=True)
class Load:
    """Of one workload; `tps` is output tokens per second."""

    prompt_tokens: float        #: mean
    output_tokens: float        #: mean
    batch: float                #: requests that decode together
    capacity_tps: float
    demand_tps: float | None    #: None: a burst has no rate
    kv_tokens: float            #: of all requests at their full length
    pools: float                #: those, in GPU pools
    readers_load: float         #: rates of the readers over capacity

    @property
    def load(self) -> float | None:
        """Demand over capacity: above 1 the queue grows as long as requests come."""
        return None if self.demand_tps is None else self.demand_tps / self.capacity_tps


def check_load(named: Workload, consume_tps: float = DEFAULT_CONSUME_TPS) -> Load:
    """The load check of a workload; lengths are those of a large sample of its laws.

    Demand is the request rate x the mean output; see `capacity` for what it is held against. `readers_load` is the sum of
    the rates of readers over that capacity, TokenFlow's condition sum r <= Gamma (Eq. 6): of a burst all readers, of a
    stream those who read at a time when nobody waits, rate x (output / r) readers of rate r, which is the demand again.
    """
    machine, trace = build_machine(**named.machine), named.trace(num_prompts=_SAMPLE)
    batch, capacity_tps = capacity(machine, trace, named.num_prompts)
    prompt, output = float(trace.input_tokens.mean()), float(trace.output_tokens.mean())
    demand_tps = None if named.request_rate is None else named.request_rate * output
    kv_tokens = named.num_prompts * (prompt + output)
    return Load(prompt, output, batch, capacity_tps, demand_tps, kv_tokens, kv_tokens / (machine.kv_blocks * machine.block_size),
                (named.num_prompts * consume_tps if demand_tps is None else demand_tps) / capacity_tps)


def capacity(machine: Machine, trace: Trace, requests: int) -> tuple[float, float]:
    """Of so many requests with the lengths of `trace`: how many decode together, B, and what they get in tokens per second.

    The pool is full and nobody is ever preempted: B = min(seats, requests, pool / c), c = sum o (p + o/2) / sum o, the mean
    context over all tokens put out, and half a block. Each step gives B tokens and lets j = B / o newcomers in, whose
    prompts ride in it; for j < 1 a share j of the steps carries one prompt. So capacity = B / (d + min(1, j) (x - d)), d the
    time of a step that only decodes, x of one with max(1, j) prompts in it.

    It bounds what policies reach. Where memory is short, simulated saturation comes to about 0.85 to 1 of it for `sglang`,
    which keeps room for growth, and to 0.75 to 1 for `vllm`, which computes the KV of preempted requests again.
    """
    prompt, output = trace.input_tokens.astype(float), trace.output_tokens.astype(float)
    context = float((output * (prompt + output / 2)).sum() / output.sum())
    pool = machine.kv_blocks * machine.block_size
    batch = min(machine.max_seqs, requests, pool / (context + machine.block_size / 2))
    joins = batch / float(output.mean())
    prompts = max(1.0, joins)
    step_s = machine.latency.step_s
    decode_s = step_s(batch, batch * context, 0.0, batch)
    mixed_s = step_s(batch + prompts * float(prompt.mean()), batch * context, prompts * float(np.square(prompt).mean()) / 2,
                     batch + prompts)
    return batch, batch / (decode_s + min(1.0, joins) * (mixed_s - decode_s))
