"""`tokenflow list workloads`: the named workloads and their load check, machine by machine."""

from __future__ import annotations

from rich.text import Text

from .hardware import build_machine, manifest
from .load_check import Load, check_load
from .workloads import WORKLOADS, Workload

_LINE = "{:<19} {:>16} {:>9} {:>9} {:>8} {:>5} {:>7}"

_LEGEND = """\
in/out    mean tokens of prompt and output
demand    output tokens/s; of a burst the KV of all requests at full length
capacity  output tokens/s, KV pool full and nobody preempted; simulated, sglang
          reaches about 85 to 100 % of it at saturation, vllm 75 to 100 %
load      demand over capacity; of a burst its KV over the pool
readers   rates of readers, at 20 tokens/s each, over capacity (TokenFlow's
          Eq. 6: below 1): of a burst all, else those who read at a time when
          nobody waits
-short    the paper's SL read as short input and short output, elsewhere as
          short input and long output; LL means the same either way"""


def tables() -> Text:
    """The load check of every workload, and what its columns mean."""
    lines = [_LINE.format("workload", "requests", "in/out", "demand", "capacity", "load", "readers")]
    by_machine: dict[str, list[Workload]] = {}
    for named in WORKLOADS.values():
        by_machine.setdefault(_machine(named), []).append(named)
    for machine, group in by_machine.items():
        lines += ["", machine, *(_row(named, check_load(named)) for named in group)]
    return Text("\n".join([*lines, "", _LEGEND]))


def _machine(named: Workload) -> str:
    machine, status = build_machine(**named.machine), manifest(named.hardware, named.model)["latency_status"]
    pool = machine.kv_blocks * machine.block_size
    return (f"{named.model} on {named.hardware}, {named.mem_fraction:g} of memory: KV pool {pool:,} tokens, "
            f"{machine.max_seqs:,} seats;\nstep times {status}")


def _row(named: Workload, found: Load) -> str:
    when = "at once" if named.request_rate is None else f"at {named.request_rate:g}/s"
    lengths = f"{_mean(named.input_len, found.prompt_tokens)}/{_mean(named.output_len, found.output_tokens)}"
    if found.load is None:
        demand, load = f"{found.kv_tokens / 1000:,.0f}k KV", f"x{found.pools:.1f}"
    else:
        demand, load = _three_digits(found.demand_tps or 0.0), f"x{found.load:.2f}"
    return _LINE.format(named.name, f"{named.num_prompts:,} {when}", lengths, demand, _three_digits(found.capacity_tps), load,
                        f"x{found.readers_load:.2f}")


def _mean(spec: str, sampled: float) -> str:
    """The mean that a spec of lengths states, else the one of a sample."""
    law, *parameters = spec.split(":")
    return parameters[0] if law in ("constant", "normal") else f"{sampled:.0f}"


def _three_digits(tokens_per_s: float) -> str:
    return f"{float(f'{tokens_per_s:.3g}'):,.0f}"
