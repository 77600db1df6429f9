"""Synthetic traces: bursts and renewal arrivals, with lengths drawn from a law."""

from __future__ import annotations

from math import inf, isinf

import numpy as np

from traces import cells, options
from traces.errors import BadInput
from traces.lengths import parse_lengths
from traces.trace import Floats, Trace, make_trace

MOST_PROMPTS = 10_000_000


def generate(
    num_prompts: int,
    *,
    arrival: str = "burst",
    request_rate: float | None = None,
    burstiness: float = 1.0,
    input_len: str | int = "constant:512",
    output_len: str | int = "constant:512",
    consume_rate: float | None = None,
    seed: int = 0,
) -> Trace:
    """A trace of `num_prompts` requests.

    `arrival` is "burst" (all at time 0) or "poisson" (see `gamma_arrivals_s`; `request_rate` inf is a burst).
    `request_rate` is in requests per second, `consume_rate` in tokens per second of every reader; `input_len` and
    `output_len` are specs of `traces.lengths`. Arrivals, inputs and outputs have a random stream each, so changing one
    leaves the others as they were. BadInput names the option.
    """
    requests = options.whole("--num-prompts", num_prompts, least=1, most=MOST_PROMPTS)
    shape = options.positive("--burstiness", burstiness, infinite=True)
    rate = inf if request_rate is None else options.positive("--request-rate", request_rate, infinite=True)
    tps = None if consume_rate is None else options.positive("--consume-rate", consume_rate)
    inputs, outputs = parse_lengths("--input-len", input_len), parse_lengths("--output-len", output_len)
    # A stream's place in this list is its identity: new purposes go to the end, or every seed changes meaning.
    streams = np.random.SeedSequence(options.whole("--seed", seed, least=0)).spawn(3)
    arrival_rng, input_rng, output_rng = map(np.random.default_rng, streams)

    if arrival == "burst":
        if not isinf(rate):
            raise BadInput("--request-rate", f"{rate:g}", "a burst has no rate; use --arrival poisson")
        if shape != 1:
            raise BadInput("--burstiness", f"{shape:g}", "a burst has no gaps to shape; use --arrival poisson")
    elif arrival != "poisson":
        raise BadInput("--arrival", str(arrival), "must be burst or poisson")
    elif request_rate is None:
        raise BadInput("--request-rate", "(not given)", "--arrival poisson needs one, in requests per second")
    return make_trace(
        np.zeros(requests) if isinf(rate) else gamma_arrivals_s(arrival_rng, requests, rate, shape),
        inputs.sample(input_rng, requests),
        outputs.sample(output_rng, requests),
        consume_tps=tps,
        source=f"generate --num-prompts {requests} --arrival {arrival}"
        + ("" if request_rate is None else f" --request-rate {rate:.12g} --burstiness {shape:.12g}")
        + f" --input-len {inputs} --output-len {outputs}"
        + ("" if tps is None else f" --consume-rate {tps:.12g}")
        + f" --seed {seed}",
    )


def gamma_arrivals_s(rng: np.random.Generator, requests: int, rate: float, burstiness: float) -> Floats:
    """Arrival times in seconds as `vllm bench serve` draws them, shape (requests,).

    Gaps are Gamma with shape `burstiness` and mean 1 / `rate`: their CV is 1 / sqrt(burstiness), 1 is a Poisson process,
    inf is a metronome. The first request comes after one gap. As in vLLM, all times are then scaled so that the last
    request comes at exactly requests / rate: every seed offers the same load.
    """
    if isinf(burstiness):
        ends = np.arange(1.0, requests + 1)
    else:
        ends = np.cumsum(rng.standard_gamma(burstiness, requests))
    if ends[-1] <= 0:
        raise BadInput("--burstiness", f"{burstiness:g}", "is so small that every gap rounds to zero")
    span_s = requests / rate
    if span_s > cells.MOST:
        raise BadInput("--request-rate", f"{rate:g}", "is so small that arrivals lie beyond 2**53 s")
    scaled: Floats = ends / ends[-1] * span_s
    return scaled
