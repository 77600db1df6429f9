"""Workloads: read them from files, generate them, describe them, write them.

    from traces import generate, load_trace
    trace = load_trace("conversations.csv.gz").window(start_s=1110, end_s=2310)
    burst = generate(200, input_len="normal:512:102", output_len=1024, consume_rate=20)
"""

from traces.consumption import parse_rates, with_rates
from traces.errors import BadInput
from traces.generate import generate
from traces.load import load_trace
from traces.trace import Trace, make_trace
from traces.write import write_trace

__all__ = ["BadInput", "Trace", "generate", "load_trace", "make_trace", "parse_rates", "with_rates", "write_trace"]
