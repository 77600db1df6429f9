"""On what the paper's experiments are run here: workload, machine and readers of each, as far as the paper states them.

What it leaves open is resolved as in DESIGN.md. Rows of Table 1 are `sim.workloads`' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .runs import Run

OURS = ("tokenflow", "tokenflow-paper")
CONTROLS = ("sglang-ratecap", "fcfs-offload")
POLICIES = ("sglang", "sglang-chunked", "andes", *OURS, *CONTROLS)

#: TokenFlow where it admits and prefills more than it should: to see what its bounds cost and save
WITHOUT_BOUNDS = {"without the bound on rates (Eq. 6)": "tokenflow[rate_bound=false]",
                  "with a working set of twice the memory": "tokenflow[overcommit=2]",
                  "with prompts that take four times as long as the decode step they ride in": "tokenflow[ride_share=4]"}

_QUICK_S = 60.0         # of arrivals, with --quick


@dataclass(frozen=True)
class How:
    """How much is run."""

    seeds: int = 5
    quick: bool = False
    burstgpt: str = ""          #: a real BurstGPT file

    def seeds_of(self, setup: Setup) -> range:
        """A file is what it is: no seed changes it."""
        return range(1, 2 if setup.file else self.seeds + 1)


@dataclass(frozen=True)
class Setup:
    """One workload of a figure."""

    name: str
    workload: str
    requests: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    consume_tps: float = 20.0
    file: str = ""

    def run(self, policy: str, seed: int, keep: tuple[str, ...] = ()) -> Run:
        return Run.of(self.workload, policy, seed, self.requests, self.machine, consume_tps=self.consume_tps, file=self.file,
                      keep=keep)

    def runs(self, policies: tuple[str, ...], how: How, keep: tuple[str, ...] = ()) -> list[Run]:
        return [self.run(policy, seed, keep) for policy in policies for seed in how.seeds_of(self)]


def table1(row: str, how: How, consume_tps: float = 20.0, requests: Mapping[str, Any] | None = None,
           machine: Mapping[str, Any] | None = None, name: str = "") -> Setup:
    """A row of Table 1, as `4090-b`; with --quick a Poisson row has a minute of arrivals."""
    from ..workloads import workload
    named = workload(f"table1-{row}")
    fewer = {"num_prompts": round(named.request_rate * _QUICK_S)} if how.quick and named.request_rate else {}
    return Setup(name or row, named.name, fewer | dict(requests or {}), machine or {}, consume_tps)


BURSTS, POISSONS = ("4090-a", "4090-b", "h200-a", "h200-b"), ("4090-c", "4090-d", "h200-c", "h200-d")


def bursts(how: How) -> list[Setup]:
    return [table1(row, how) for row in BURSTS]


def poissons(how: How) -> list[Setup]:
    return [table1(row, how) for row in POISSONS]


def second_reading(how: How) -> list[Setup]:
    """SL as short input and short output; LL means the same in both readings."""
    return [table1(f"{row}-short", how) for row in ("4090-a", "h200-a", "4090-c", "4090-d", "h200-c", "h200-d")]


#: lengths and gaps of BurstGPT; requests per second for a load of 0.9 by `sim.load_check`: the paper does not give its own
_TRACES = {
    "h200": ("H200, Llama3-8B", {"hardware": "h200", "model": "llama3-8b", "mem_fraction": 0.3}, 61.0, 6000),
    "a6000": ("A6000, Qwen2.5-7B", {"hardware": "a6000", "model": "qwen2.5-7b", "mem_fraction": 0.9}, 10.8, 3000),
}


def trace_of(gpu: str, how: How) -> Setup:
    """Fig. 12 and 13: BurstGPT's requests, sped up to this load."""
    name, machine, rate, requests = _TRACES[gpu]
    return Setup(name, "burstgpt-20min", {"num_prompts": requests // 6 if how.quick else requests, "request_rate": rate}, machine,
                 file=how.burstgpt)


def segments(how: How) -> list[Setup]:
    """Fig. 14 and 15: twenty minutes of BurstGPT on Qwen2.5-32B, at its own rate and at twice that."""
    once = {"num_prompts": 11_112 // (10 if how.quick else 1)}
    twice = {"num_prompts": 22_224 // (20 if how.quick else 2), "request_rate": 18.52}
    return [Setup("at its own rate", "burstgpt-20min", once, file=how.burstgpt),
            Setup("at twice that rate", "burstgpt-20min", twice, file=how.burstgpt)]


def segment_about(how: How) -> str:
    """Which requests those are, for the page."""
    if not how.burstgpt:
        return ("Requests are drawn from laws fitted to BurstGPT's published statistics (`traces.burstgpt`), not its own: give the "
                "real file with --burstgpt FILE.")
    from .segment import busiest_s, whole
    begin = busiest_s(whole(how.burstgpt))
    return f"Requests are those of {whole(how.burstgpt).source}, its busiest 20 minutes from {begin:,.0f} s on."
