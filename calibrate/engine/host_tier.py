"""The host tier as the scheduler sees it: a pool of blocks, two links, and orders that go to the worker with the next step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sim.machine import Machine
from sim.write_through import WriteThrough

from .copies import Across, Copies, Pair
from .host_pool import HostPool
from .link_times import EmulatedLinks, ReportedLinks


class HostTier:
    """Requests go by vLLM's ids, times are on the scheduler's clock.

    The scheduler decides who is copied, and counts host blocks as the policy sees them; the tier gives out slots, knows when copies
    are across, and measures out what is written through. `emulated`: copies take the time that `machine`'s links say, whatever they
    really take.
    """

    def __init__(self, machine: Machine, emulated: bool) -> None:
        self.pool, self.emulated = HostPool(machine.host_kv_blocks), emulated
        self._links = EmulatedLinks(machine) if emulated else ReportedLinks(machine)
        self._writer = WriteThrough(replace(machine, believed_step=1.0), self._links.d2h)   # it is told what is believed
        self._block_size, self._block_bytes = machine.block_size, machine.block_size * machine.kv_token_bytes
        self._now_s = 0.0
        self._idle = 0.0, 0.0           # a step's length, and what it hides while nothing is queued
        self._to_load: dict[str, int] = {}
        self._reports: list[str] = []
        self._copies = Copies()

    @property
    def total_blocks(self) -> int:
        return self.pool.total_blocks

    @property
    def h2d_free_s(self) -> float:
        """When everything queued from the host to the GPU is across."""
        return self._links.h2d.free_s

    @property
    def d2h_free_s(self) -> float:
        return self._links.d2h.free_s

    @property
    def next_s(self) -> float:
        """When the next copy is across; infinite where only the worker knows."""
        return self._links.next_s

    # ---- orders of the scheduler, for the coming step

    def begin(self, now_s: float) -> list[tuple[str, float]]:
        """A step is being scheduled. Whose evictions and loads are complete since the last one, and when they were, in order."""
        self._now_s = now_s
        self._links.look(now_s)
        if not self._reports:
            return []
        across = [(name, self._links.reported(name, now_s)) for name in self._reports]
        self._reports = []
        self._links.look(now_s)
        return sorted(across, key=lambda each: each[1])

    def evict(self, request_id: str, first: int, gpu_blocks: Sequence[int]) -> None:
        """Copy these blocks, the request's `first` and those that follow; it computes nothing until they are across."""
        self._copies.evict[request_id] = self._pairs(request_id, first, gpu_blocks)
        self._links.evict(request_id, len(gpu_blocks), self._now_s)

    def load(self, request_id: str, tokens: int) -> None:
        """Copy it back; vLLM will ask, and be told that this request has so many tokens to load."""
        self._to_load[request_id] = tokens
        self._links.load(request_id, -(-tokens // self._block_size), self._now_s)

    def cancel_load(self, request_id: str) -> None:
        """vLLM did not take it."""
        self._links.cancel_load(request_id, -(-self._to_load.pop(request_id) // self._block_size))

    def hidden_blocks(self, step_s: float) -> float:
        """Of full blocks, what a step hides that is believed to take so long: the longer, the more."""
        now_s, link = self._now_s, self._links.d2h
        if link.free_s > now_s or link.slowed_after(now_s):
            return self._writer.hidden_blocks(now_s, now_s + step_s)
        if step_s != self._idle[0]:                             # on an idle link only the step's length counts
            self._idle = step_s, self._writer.hidden_blocks(now_s, now_s + step_s)
        return self._idle[1]

    def write(self, request_id: str, first: int, gpu_blocks: Sequence[int]) -> None:
        """Write these through during the coming step, after those before: full block `first` of the request and what follows."""
        self._copies.write += self._pairs(request_id, first, gpu_blocks)

    def forget(self, request_id: str) -> None:
        """Nobody needs this request's host copy any more."""
        self.pool.forget(request_id)

    def _pairs(self, request_id: str, first: int, gpu_blocks: Sequence[int]) -> list[Pair]:
        return list(zip(gpu_blocks, self.pool.slots(request_id, first, first + len(gpu_blocks))))

    # ---- what vLLM asks and tells its connector

    def tokens_to_load(self, request_id: str) -> int:
        return self._to_load.get(request_id, 0)

    def begin_load(self, request_id: str, gpu_blocks: Sequence[int]) -> None:
        """vLLM has given it these GPU blocks."""
        blocks = -(-self._to_load.pop(request_id) // self._block_size)
        self._copies.load[request_id] = self._pairs(request_id, 0, gpu_blocks[:blocks])

    def take_orders(self) -> Copies:
        """What the worker is to do with the step."""
        copies = self._copies
        if copies.write:
            tokens = len(copies.write) * self._block_size
            self._writer.wrote(tokens, 1)
            if self.emulated:
                copies.written_s = self._writer.across_s(self._now_s, tokens)
        if copies.evict or copies.write or copies.load:
            self._copies = Copies()
        copies.across_s = self._links.awaited_s()
        return copies

    def report(self, loaded: Iterable[str], worker: Across | None) -> None:
        """What is across, as the worker says after a step."""
        self._reports += loaded
        if worker is not None:
            self._reports += worker.evicted
            self._writer.late_chunks += worker.waited_s > 0
            self._writer.late_s += worker.waited_s

    # ---- after the run

    def totals(self) -> dict[str, float]:
        """Bytes moved and seconds busy, by link, as `sim.simulate` reports them; what is still queued counts as moved."""
        h2d, d2h, writer = self._links.h2d, self._links.d2h, self._writer
        return {"h2d_bytes": h2d.blocks * self._block_bytes, "d2h_bytes": d2h.blocks * self._block_bytes, "h2d_busy_s": h2d.busy_s,
                "d2h_busy_s": d2h.busy_s, "write_through_bytes": writer.tokens / self._block_size * self._block_bytes,
                "write_chunks": writer.chunks, "late_chunks": writer.late_chunks, "late_s": writer.late_s}
