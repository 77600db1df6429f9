"""Run by test_same_tokens.py: the same requests alone, rotated through the host tier, and with their host copies spoilt."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

from live import Live, tell

from calibrate.engine.steering import Steering
from policies import POLICIES
from policies.api import Residency

GPU_BLOCKS = 40             # of three or four of the requests
ROTATE = f"{Path(__file__).parent / 'rotate.py'}:Rotate"


def requests(greedy: bool) -> list[tuple[list[int], dict[str, Any]]]:
    rng, asks = random.Random(3), []
    for i in range(10):
        prompt = [rng.randrange(10, 500) for _ in range(rng.randrange(50, 300))]
        how = {"temperature": 0.0} if greedy else {"temperature": 0.8, "seed": i}
        asks.append((prompt, {"max_tokens": 90, "ignore_eos": True, "extra_args": {"consumption_rate": 20.0}} | how))
    return asks


class Notes:
    """What happens to requests, noted from outside; and nonsense in the GPU blocks that they leave behind."""

    def __init__(self, live: Live) -> None:
        self._live, scheduler = live, live.scheduler
        self._schedule, self._leave = scheduler.schedule, scheduler._leave_gpu
        scheduler.schedule, scheduler._leave_gpu = self._scheduled, self._left
        self.clear()

    def clear(self) -> None:
        self._back: set[str] = set()
        self.resumed: list[tuple[str, int, int]] = []       # who, tokens computed, tokens of context
        self.poisoned = 0

    def _scheduled(self, *args: Any) -> Any:
        out, named = self._schedule(*args), self._live.scheduler.named
        for name, tokens in out.num_scheduled_tokens.items():
            if name in self._back:
                self._back.discard(name)
                self.resumed.append((name, tokens, named[name].request.num_tokens))
        self._back |= {name for name, stream in named.items() if stream.residency == Residency.LOADING}
        return out

    def _left(self, stream: Any, to: int, when_s: float) -> None:
        blocks = self._live.scheduler.kv_cache_manager.get_block_ids(stream.name)[0]
        self._leave(stream, to, when_s)
        for kv in self._live.runner.kv_caches:
            kv[blocks] = 1.0
        self.poisoned += len(blocks)


def spoil(live: Live) -> None:
    """From now on, what lies on the host is zero."""
    from vllm.distributed.kv_transfer import get_kv_transfer_group
    mover = get_kv_transfer_group().worker._mover
    to_host = mover.to_host

    def spoilt(pairs: Any) -> Any:
        copied = to_host(pairs)
        for _, host in mover.layers:
            host.zero_()
        return copied

    mover.to_host = spoilt


def main(host_blocks: int, link_gb_per_s: float | None) -> None:
    live = Live(Steering(ROTATE, "h200", "llama3-8b", {"steps": 6, "rich_s": 0.3}, host_blocks, link_gb_per_s), GPU_BLOCKS)
    scheduler, notes, told = live.scheduler, Notes(live), dict[str, Any]()
    rotate = scheduler.planner
    for how in ("greedy", "seeded", "spoilt"):
        asks = requests(how != "seeded")
        if how == "spoilt":
            spoil(live)
        else:
            scheduler.planner = POLICIES["vllm"]()
            alone = [live.run([ask])[0] for ask in asks]
        scheduler.planner = rotate
        notes.clear()
        rotated, names = live.run(asks), live.names
        told[how] = {"alone": alone if how != "spoilt" else told["greedy"]["alone"], "rotated": rotated, "names": names,
                     "resumed": notes.resumed, "poisoned": notes.poisoned}
    told |= {"leaked": live.blocks_leaked(), "offloads": scheduler.count.offloads, "loads": scheduler.count.loads,
             "forgets": scheduler.count.forgets, "write_through_bytes": scheduler.host.totals()["write_through_bytes"],
             **scheduler.fidelity()}
    tell(told)


if __name__ == "__main__":
    main(int(sys.argv[1]), None if sys.argv[2] == "real" else float(sys.argv[2]))
