"""A burst on which prediction and measurement can be held against each other, made from a machine's own step times.

Steps are long against a clock's noise, one reader gets more than he reads, memory holds less than half of what is asked for, and
TokenFlow has to move requests to the host and back many times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sim.machine import Machine
from sim.result import Result
from sim.simulate import simulate
from traces import BadInput, Trace, generate

LEAST_STEP_S = 0.01         #: of a mean decode step
LEAST_SURPLUS = 1.5         #: tokens that a reader gets over tokens that he reads, while he is served
MOST_POOL = 0.5             #: KV pool over KV of all requests
LEAST_MOVES = 50            #: preemptions, and loads, under the policy that moves them

_STEP_S = 0.025             # of the decode step that the batch is chosen by, at least
_OVER_ONE = 2.0             # times a step of a single request, which reads the weights and little else: memory is anybody's
_SURPLUS = 2.0
_PROMPT = 128
_OUTPUTS = (192, 256, 384, 512)
_REQUESTS_PER_SEAT = 2.5
_FEWEST, _MOST = 6, 64      # requests that decode together
_MOVES = 60                 # wanted of the prediction: some more than LEAST_MOVES


@dataclass(frozen=True, eq=False)
class Burst:
    trace: Trace
    num_gpu_blocks: int         #: vLLM's, null block included
    machine: Machine


@dataclass(frozen=True)
class Condition:
    """What makes a comparison worth something, and whether it holds."""

    what: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def ok(self) -> bool:
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def __str__(self) -> str:
        wanted = f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"
        return f"{self.what}: {self.value:,.3g} ({wanted}): {'ok' if self.ok else 'NOT OK'}"


def design(machine_with: Callable[[int], Machine], longest: int, policy: str = "tokenflow", seed: int = 0) -> Burst:
    """The shortest such burst that makes `policy` move requests often enough, or else the longest.

    `machine_with`: the machine of an engine with so many GPU blocks, null block included. `longest`: tokens that a prompt and its
    answer may have.
    """
    found = None
    for output in _OUTPUTS:
        if 1.6 * (_PROMPT + output) > longest:      # three standard deviations above the mean
            break
        found = _burst(machine_with, output, seed)
        summary = simulate(policy, found.trace, found.machine).summary
        if min(summary["preemptions"], summary["loads"]) >= _MOVES:
            break
    if found is None:
        why = f"leaves no room for prompts of {_PROMPT} tokens and answers of {_OUTPUTS[0]}, of which some are longer"
        raise BadInput("--max-model-len", str(longest), why)
    return found


def _burst(machine_with: Callable[[int], Machine], output: int, seed: int) -> Burst:
    latency, context = machine_with(4).latency, _PROMPT + output / 2
    seats = machine_with(4).max_seqs
    long_s = max(_STEP_S, _OVER_ONE * latency.step_s(1, context, 0.0, 1))
    together = next((n for n in range(_FEWEST, _MOST) if latency.step_s(n, n * context, 0.0, n) >= long_s), _MOST)
    together = min(together, max(seats // 2, 1))
    step_s = latency.step_s(together, together * context, 0.0, together)
    bs = machine_with(4).block_size
    blocks = 1 + round(together * (context / bs + 0.5))
    trace = generate(max(round(_REQUESTS_PER_SEAT * together), 4), input_len=f"normal:{_PROMPT}:{_PROMPT // 5}",
                     output_len=f"normal:{output}:{output // 5}", consume_rate=float(f"{1 / (_SURPLUS * step_s):.3g}"), seed=seed)
    largest = int((trace.input_tokens + trace.output_tokens).max())
    blocks = max(blocks, 2 + -(-largest // bs))
    return Burst(trace, blocks, machine_with(blocks))


def conditions(trace: Trace, machine: Machine, vllm: Result, mover: Result | None) -> list[Condition]:
    """Of a prediction: under `vllm`'s policy, and under one that moves requests."""
    latency = machine.latency
    pool = machine.kv_blocks * machine.block_size
    tokens = trace.input_tokens + trace.output_tokens
    count = vllm.counters
    assert count is not None
    batch = count.decode_tokens / max(count.decode_steps, 1)
    context = float(tokens.mean()) - float(trace.output_tokens.mean()) / 2
    step_s = latency.step_s(batch, batch * context, 0.0, batch)
    found = [
        Condition("mean decode step, ms", 1e3 * count.decode_s / max(count.decode_steps, 1), least=1e3 * LEAST_STEP_S),
        Condition("tokens that a reader gets over those he reads", 1 / (step_s * float(vllm.rates.mean())), least=LEAST_SURPLUS),
        Condition("KV pool over KV of all requests", pool / float(tokens.sum()), most=MOST_POOL),
    ]
    if mover is not None:
        found += [Condition(f"{what} under {mover.label}", float(mover.summary[what]), least=LEAST_MOVES)
                  for what in ("preemptions", "loads")]
    return found
