"""Synthetic traces: bursts, renewal arrivals and loads that come in waves, with lengths and readers drawn from laws."""

from __future__ import annotations

from math import inf, isinf

import numpy as np

from traces import options
from traces.arrivals import Burst, parse_arrivals
from traces.consumption import Readers, parse_rates, with_rates
from traces.empirical import Empirical
from traces.errors import BadInput
from traces.lengths import Lengths, parse_lengths
from traces.streams import Purpose, stream
from traces.trace import Ints, Trace, make_trace

MOST_PROMPTS = 10_000_000


def generate(
    num_prompts: int,
    *,
    arrival: str = "burst",
    request_rate: float | None = None,
    burstiness: float | None = None,
    input_len: str | int | None = None,
    output_len: str | int | None = None,
    consume_rate: float | str | None = None,
    seed: int = 0,
) -> Trace:
    """A trace of `num_prompts` requests.

    `arrival` is a spec of `traces.arrivals`: "burst" (all at time 0), "poisson" or "gamma" (vLLM's arrivals), "weibull",
    "onoff:PEAK:ON_S:OFF_S" or "burstgpt". `request_rate` is their mean in requests per second (inf: a burst), `burstiness`
    the shape of the gaps (None: 1, for burstgpt 0.25). `input_len` and `output_len` are specs of `traces.lengths` (None:
    512 tokens, for burstgpt its own). `consume_rate` is in tokens per second, or a spec of `traces.consumption`. Arrivals,
    inputs, outputs and rates have a random stream each, so changing one leaves the others as they were; only lengths that
    are drawn in pairs (the same `empirical:FILE` twice) come from the inputs' stream alone. BadInput names the option.
    """
    requests = options.whole("--num-prompts", num_prompts, least=1, most=MOST_PROMPTS)
    law = parse_arrivals("--arrival", arrival)
    shape = law.burstiness if burstiness is None else options.positive("--burstiness", burstiness, infinite=True)
    rate = inf if request_rate is None else options.positive("--request-rate", request_rate, infinite=True)
    readers = _readers(consume_rate)
    inputs = parse_lengths("--input-len", law.lengths[0] if input_len is None else input_len, "input")
    outputs = parse_lengths("--output-len", law.lengths[1] if output_len is None else output_len, "output")
    options.whole("--seed", seed, least=0)

    if isinstance(law, Burst):
        if not isinf(rate):
            raise BadInput("--request-rate", f"{rate:g}", "a burst has no rate; use --arrival poisson")
        if shape != 1:
            raise BadInput("--burstiness", f"{shape:g}", "a burst has no gaps to shape; use --arrival poisson")
    elif request_rate is None:
        raise BadInput("--request-rate", "(not given)", f"--arrival {arrival} needs one, in requests per second")
    arrival_rng = stream(seed, Purpose.ARRIVALS)
    input_tokens, output_tokens = _lengths(inputs, outputs, seed, requests)
    trace = make_trace(
        np.zeros(requests) if isinf(rate) else law.times_s(arrival_rng, requests, rate, shape),
        input_tokens,
        output_tokens,
        source=f"generate --num-prompts {requests} --arrival {arrival}"
        + ("" if request_rate is None else f" --request-rate {rate:.12g} --burstiness {shape:.12g}")
        + f" --input-len {inputs} --output-len {outputs}"
        + (f" --seed {seed}" if readers is None else ""),
    )
    return trace if readers is None else with_rates(trace, readers, seed)


def _readers(consume_rate: float | str | None) -> Readers | None:
    if consume_rate is None:
        return None
    if isinstance(consume_rate, str):
        return parse_rates("--consume-rate", consume_rate)
    tps = options.tps("--consume-rate", consume_rate)
    return Readers(f"{tps:.12g}", (1.0,), (tps,))


def _lengths(inputs: Lengths, outputs: Lengths, seed: int, requests: int) -> tuple[Ints, Ints]:
    """Prompt and output tokens of each request."""
    input_rng, output_rng = stream(seed, Purpose.INPUTS), stream(seed, Purpose.OUTPUTS)
    if isinstance(inputs, Empirical) and inputs.pairs_with(outputs):
        pairs = inputs.draw(input_rng, requests)
        return pairs[:, 0], pairs[:, 1]
    return inputs.sample(input_rng, requests), outputs.sample(output_rng, requests)
