"""Copies between pinned host memory and the GPU, timed: by block size and layout, both ways at once, beside compute.

Copies are torch's, one call per contiguous piece, on streams of their own; launching them is part of the time, as it is for an
engine that copies block by block. Written for CUDA, where it has not run yet: the arithmetic is tested without a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any

REPEATS = 5
#: bytes of the contiguous pieces that are always measured; the model's own block comes on top
SIZES = tuple(4096 << 2 * i for i in range(7))          # 4 KiB to 16 MiB
MOVED_BYTES, MOST_COPIES, SLICES = 128 << 20, 4096, 16


@dataclass(frozen=True)
class Case:
    """One thing to measure: `blocks` blocks each way, in `pieces` copies per block."""

    direction: str          #: h2d, d2h or both
    layout: str             #: contiguous, or per-layer: K and V of every layer lie apart
    block_bytes: int
    pieces: int
    blocks: int
    with_compute: bool

    @property
    def piece_bytes(self) -> int:
        return self.block_bytes // self.pieces


def cases(block_bytes: int, layers: int) -> list[Case]:
    """The model's own block first, in both layouts; then contiguous ones of other sizes."""
    shapes = [("contiguous", block_bytes, 1), ("per-layer", block_bytes, 2 * layers)]
    shapes += [("contiguous", size, 1) for size in SIZES if size != block_bytes]
    return [Case(direction, layout, size, pieces, blocks_to_move(size, pieces), compute)
            for (layout, size, pieces), compute, direction in product(shapes, (False, True), ("h2d", "d2h", "both"))]


def blocks_to_move(block_bytes: int, pieces: int) -> int:
    """As many as make a copy long enough to time; a multiple of the slices that are timed apart."""
    wanted = min(MOVED_BYTES // block_bytes, MOST_COPIES // pieces)
    return max(wanted // SLICES, 1) * SLICES


def rates(ends_s: dict[str, Sequence[float]], slice_bytes: int) -> dict[str, float]:
    """Bytes per second of each direction, while all of them ran.

    `ends_s`: since the common start, the ends of slices of `slice_bytes` each. What a direction still copied alone, after the
    other was done, does not count.
    """
    until_s = min(ends[-1] for ends in ends_s.values())
    found = {}
    for direction, ends in ends_s.items():
        done = sum(end_s <= until_s for end_s in ends)
        found[direction] = (done * slice_bytes / ends[done - 1]) if done else slice_bytes / ends[0]
    return found


def rows(case: Case, runs: Sequence[dict[str, Sequence[float]]]) -> list[dict[str, Any]]:
    """Rows of links.csv: the median rate of each direction over the repeats."""
    slice_bytes = case.block_bytes * case.blocks // SLICES
    measured = [rates(run, slice_bytes) for run in runs]
    prefix = "both-" if case.direction == "both" else ""
    return [{"direction": prefix + direction, "layout": case.layout, "block_bytes": case.block_bytes, "blocks": case.blocks,
             "with_compute": int(case.with_compute), "gb_per_s": f"{median(run[direction] for run in measured) / 1e9:.4g}",
             "repeats": len(runs)} for direction in measured[0]]


def measure(block_bytes: int, layers: int, budget_s: float, device: Any = None,
            clock: Callable[[], float] = time.monotonic) -> Iterator[dict[str, Any]]:
    """Rows of links.csv, as they are measured, until the budget is spent. `device`: a `CudaDevice`."""
    device = device or CudaDevice()
    end_s = clock() + budget_s
    for case in cases(block_bytes, layers):
        if clock() >= end_s:
            return
        device.run(case)        # warms up
        yield from rows(case, [device.run(case) for _ in range(REPEATS)])


class CudaDevice:
    """Copies on the current CUDA device."""

    def __init__(self) -> None:
        import torch
        self._torch = torch
        largest = max(MOVED_BYTES, SLICES * max(SIZES))
        self._gpu = {way: torch.empty(largest, dtype=torch.uint8, device="cuda") for way in ("h2d", "d2h")}
        self._host = {way: torch.empty(largest, dtype=torch.uint8, pin_memory=True) for way in ("h2d", "d2h")}
        self._streams = {way: torch.cuda.Stream() for way in ("h2d", "d2h")}
        self._a = torch.randn(4096, 4096, dtype=torch.bfloat16, device="cuda")
        self._product_s = self._time_of_a_product()

    def run(self, case: Case) -> dict[str, list[float]]:
        """Ends of the slices of each direction, seconds since the start."""
        ways = ("h2d", "d2h") if case.direction == "both" else (case.direction,)
        per_slice = case.blocks * case.pieces // SLICES
        copies = {way: self._pieces(way, case.piece_bytes, per_slice * SLICES) for way in ways}
        torch, ends = self._torch, {way: [self._event() for _ in range(SLICES)] for way in ways}
        torch.cuda.synchronize()
        if case.with_compute:
            # Enough to outlast the copies, at 4 GB/s and 10 us a copy at worst.
            longest_s = len(ways) * (case.block_bytes * case.blocks / 4e9 + case.blocks * case.pieces * 1e-5)
            for _ in range(int(longest_s / self._product_s) + 1):
                torch.mm(self._a, self._a)
        starts = {way: self._event() for way in ways}
        for way in ways:
            starts[way].record(self._streams[way])
        for i in range(SLICES):
            for way in ways:
                with torch.cuda.stream(self._streams[way]):
                    for to, source in copies[way][i * per_slice:(i + 1) * per_slice]:
                        to.copy_(source, non_blocking=True)
                    ends[way][i].record(self._streams[way])
        for stream in self._streams.values():
            stream.synchronize()
        torch.cuda.synchronize()
        return {way: [starts[way].elapsed_time(end) / 1e3 for end in ends[way]] for way in ways}

    def _pieces(self, way: str, piece_bytes: int, number: int) -> list[tuple[Any, Any]]:
        """(to, from) of each copy; where the buffers end, from their start again."""
        room = len(self._gpu[way]) // piece_bytes
        gpu = [self._gpu[way][i * piece_bytes:(i + 1) * piece_bytes] for i in range(min(room, number))]
        host = [self._host[way][i * piece_bytes:(i + 1) * piece_bytes] for i in range(min(room, number))]
        pairs = list(zip(gpu, host) if way == "h2d" else zip(host, gpu))
        return [pairs[i % len(pairs)] for i in range(number)]

    def _event(self) -> Any:
        return self._torch.cuda.Event(enable_timing=True)

    def _time_of_a_product(self) -> float:
        torch, start, end = self._torch, self._event(), self._event()
        for _ in range(5):
            torch.mm(self._a, self._a)
        start.record()
        for _ in range(20):
            torch.mm(self._a, self._a)
        end.record()
        torch.cuda.synchronize()
        return max(float(start.elapsed_time(end)) / 20e3, 1e-6)
