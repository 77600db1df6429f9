"""Run by test_faults.py: clients that go away in every state, a host pool without room, policies that fail; in one engine."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from failing import Failing
from live import Live, tell
from rotate import Rotate
from same_tokens import GPU_BLOCKS, ROTATE, requests

from calibrate.engine import scheduler as module
from calibrate.engine.steering import Steering
from policies import POLICIES
from policies.api import Policy, Residency

HOMES = {Residency.NONE: "none", Residency.GPU: "gpu", Residency.HOST: "host", Residency.LOADING: "loading",
         Residency.EVICTING: "evicting"}


class Aborts:
    """After a step, gives up one request of the state that has been given up least often."""

    def __init__(self, live: Live, most: int) -> None:
        self._live, self._most = live, most
        self.states, self.gone = Counter[str](), set[str]()

    def __call__(self) -> None:
        streams = [stream for stream in self._live.scheduler.streams.values() if stream.request.num_output_tokens > 2]
        if self._live.scheduler.steps % 5 or len(self.gone) >= self._most or not streams:
            return
        victim = min(streams, key=lambda stream: self.states[HOMES[stream.residency]])
        if self.states[HOMES[victim.residency]] <= min((self.states[home] for home in ("loading", "evicting", "host")), default=0):
            self.states[HOMES[victim.residency]] += 1
            self.gone.add(victim.name)
            self._live.engine.abort_request([victim.name], internal=True)


def served(live: Live, policy: Policy, alone: list[list[int]], each_step: Any = lambda: None) -> dict[str, Any]:
    """All requests under this policy: whose answers are not theirs, what is lost, how often the policy was replaced."""
    scheduler = live.scheduler
    scheduler.planner, fallbacks = policy, scheduler.fallbacks
    least, pool = [10**6], scheduler.host.pool

    def look() -> None:
        least[0] = min(least[0], pool.free_blocks)
        each_step()

    answers = live.run(requests(greedy=True), look)
    wrong = [name for name, answer, wanted in zip(live.names, answers, alone) if answer != wanted]
    return {"wrong": wrong, "leaked": live.blocks_leaked(), "fallbacks": scheduler.fallbacks - fallbacks,
            "least_host_free": least[0], "left": len(scheduler.streams) + len(scheduler.named) + len(scheduler.requests)}


def main(host_blocks: int, link_gb_per_s: float, *hows: str) -> None:
    live = Live(Steering(ROTATE, "h200", "llama3-8b", {}, host_blocks, link_gb_per_s), GPU_BLOCKS)
    live.scheduler.planner = POLICIES["vllm"]()
    alone = [live.run([ask])[0] for ask in requests(greedy=True)]
    aborts = Aborts(live, most=8)
    told = {"aborts": served(live, Rotate(steps=6, rich_s=0.1), alone, aborts)}
    told["aborts"] |= {"states": dict(aborts.states), "gone": sorted(aborts.gone)}
    told["rotate"] = served(live, Rotate(steps=6, rich_s=0.1), alone)
    module._PATIENCE = 300
    for how in hows:
        told[how] = served(live, Failing(steps=6, rich_s=0.1, how=how), alone)
    tell(told | {"departures": live.scheduler.departures})


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:])
