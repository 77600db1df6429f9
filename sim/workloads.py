"""Named workloads: requests and the machine that serves them, so that two people can mean the same run.

    from sim import simulate
    from sim.workloads import workload
    named = workload("table1-4090-b")
    result = simulate("tokenflow", named.trace(seed=1), **named.machine, workload=named.name)
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traces import Trace


@dataclass(frozen=True)
class Workload:
    name: str
    about: str
    num_prompts: int
    input_len: str                          #: a spec of `traces.lengths`
    output_len: str
    hardware: str
    model: str
    mem_fraction: float = 0.9
    request_rate: float | None = None       #: per second; None: a burst
    arrival: str = "poisson"                #: law of the gaps, where there is a rate
    source: str = "TokenFlow Lab"           #: who set it up so

    @property
    def machine(self) -> dict[str, Any]:
        """Keyword arguments of `sim.simulate`, and of `sim.build_machine`."""
        return {"hardware": self.hardware, "model": self.model, "mem_fraction": self.mem_fraction}

    def trace(self, seed: int = 0, **changes: Any) -> Trace:
        """Its requests. `changes` are arguments of `traces.generate` in place of its own: `num_prompts=20` for a quick look.

        A rate spreads a burst out, as a Poisson process unless `arrival` says otherwise; `arrival="burst"` has no rate.
        """
        from traces import generate
        drawn: dict[str, Any] = {
            "num_prompts": self.num_prompts, "input_len": self.input_len, "output_len": self.output_len,
            "request_rate": None if changes.get("arrival") == "burst" else self.request_rate} | changes
        drawn.setdefault("arrival", "burst" if drawn["request_rate"] is None else self.arrival)
        return generate(**drawn, seed=seed)


def _normal(mean: int) -> str:
    """Normal lengths, as the paper's; it does not give the spread, 0.2 of the mean is ours."""
    return f"normal:{mean}:{0.2 * mean:g}"


def _table1(row: str, asks: str, num_prompts: int, prompt: int, output: int, request_rate: float | None = None) -> Workload:
    gpu = row.split("-")[0]
    return Workload(f"table1-{row}", asks, num_prompts, _normal(prompt), _normal(output), *_TABLE_1[gpu], request_rate,
                    source=f"TokenFlow (arXiv 2510.02758), Table 1, {gpu.upper()} ({row.split('-')[1]})")


#: hardware, model and memory fraction of Table 1. The paper gives the fraction of the H200 only, and no model for the 4090
_TABLE_1 = {"4090": ("rtx4090", "qwen2-7b", 0.9), "h200": ("h200", "llama3-8b", 0.3)}

#: Table 1 names its lengths SL and LL. We read short or long *input* with long output; `-short` reads short or long *lengths*,
#: so LL is the same either way. It gives Poisson rows no duration: ours is 300 s.
_ALL = (
    _table1("4090-a", "burst of 60, SL", 60, 512, 2048),
    _table1("4090-b", "burst of 80, LL", 80, 1024, 2048),
    _table1("4090-c", "Poisson 2/s, SL", 600, 512, 2048, 2.0),
    _table1("4090-d", "Poisson 4/s, SL", 1200, 512, 2048, 4.0),
    _table1("4090-a-short", "burst of 60, SL: input and output short", 60, 512, 1024),
    _table1("4090-c-short", "Poisson 2/s, SL: input and output short", 600, 512, 1024, 2.0),
    _table1("4090-d-short", "Poisson 4/s, SL: input and output short", 1200, 512, 1024, 4.0),
    _table1("h200-a", "burst of 400, SL", 400, 512, 4096),
    _table1("h200-b", "burst of 200, LL", 200, 1024, 4096),
    _table1("h200-c", "Poisson 5/s, SL", 1500, 512, 4096, 5.0),
    _table1("h200-d", "Poisson 10/s, SL", 3000, 512, 4096, 10.0),
    _table1("h200-a-short", "burst of 400, SL: input and output short", 400, 512, 2048),
    _table1("h200-c-short", "Poisson 5/s, SL: input and output short", 1500, 512, 2048, 5.0),
    _table1("h200-d-short", "Poisson 10/s, SL: input and output short", 3000, 512, 2048, 10.0),
    Workload("burst-80", "the burst of `tokenflow demo`", 80, "normal:1024:205", "normal:2048:410", "rtx4090", "llama3-8b"),
    Workload("burst-400", "a burst that `tokenflow bench` measures", 400, _normal(512), _normal(4096), "h200", "llama3-8b", 0.3),
    Workload("poisson-1000", "an even load that `tokenflow bench` measures", 1000, "constant:512", "constant:1024", "a100",
             "llama3-8b", request_rate=4.0),
    # the paper's Fig. 14 and 15 show such a segment, with Qwen2.5-32B
    Workload("burstgpt-20min", "20 minutes like BurstGPT, at the mean rate of its busiest hour", 11_112, "burstgpt-request",
             "burstgpt-response", "h200", "qwen2.5-32b", request_rate=9.26, arrival="burstgpt",
             source="BurstGPT (arXiv 2401.17644): 33,344 requests from 846,000 to 849,600 s of BurstGPT_1; see traces.burstgpt"),
)

WORKLOADS = {named.name: named for named in _ALL}


def workload(name: str) -> Workload:
    """The workload of that name. BadInput names the nearest when there is none."""
    if name in WORKLOADS:
        return WORKLOADS[name]
    from traces import BadInput
    given = name.lower()
    near = max(WORKLOADS, key=lambda known: (given.startswith(known), SequenceMatcher(None, given, known).ratio()))
    raise BadInput("workload", repr(name), f"unknown; did you mean '{near}'? tokenflow list workloads shows all")
