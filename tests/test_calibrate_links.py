"""Which copies are timed, and what their times say; the copies themselves need a GPU."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from calibrate.links import MOST_COPIES, MOVED_BYTES, REPEATS, SIZES, SLICES, Case, CudaDevice, cases, measure, rates, rows

BLOCK, LAYERS = 2 << 20, 32         # Llama 3 8B, 16 tokens


def test_every_size_goes_both_ways_beside_compute_and_without() -> None:
    found = cases(BLOCK, LAYERS)
    assert len(found) == len(set(found)) == 6 * (2 + len(set(SIZES) - {BLOCK}))
    assert {(case.direction, case.with_compute) for case in found} == {(way, compute) for way in ("h2d", "d2h", "both")
                                                                       for compute in (False, True)}
    assert {case.block_bytes for case in found} == {BLOCK, *SIZES}
    assert all(case.block_bytes == BLOCK for case in found[:12])


def test_a_block_apart_by_layer_is_copied_in_pieces() -> None:
    apart = {case.piece_bytes for case in cases(BLOCK, LAYERS) if case.layout == "per-layer"}
    assert apart == {32 << 10}
    assert all(case.piece_bytes == case.block_bytes for case in cases(BLOCK, LAYERS) if case.layout == "contiguous")


def test_copies_are_long_enough_to_time_and_not_too_many() -> None:
    for case in cases(BLOCK, LAYERS):
        assert case.blocks % SLICES == 0
        assert case.blocks * case.pieces <= MOST_COPIES
        assert case.block_bytes * case.blocks <= max(MOVED_BYTES, SLICES * max(SIZES))
        assert case.block_bytes * case.blocks >= MOVED_BYTES / 2 or case.blocks * case.pieces >= MOST_COPIES / 2


def test_a_rate_is_bytes_over_time() -> None:
    assert rates({"h2d": [0.1, 0.2, 0.3, 0.4]}, 10) == {"h2d": pytest.approx(100)}


def test_both_ways_count_while_both_run() -> None:
    """H2D is done after 0.4 s; then D2H, at half its rate until then, copies alone and faster."""
    found = rates({"h2d": [0.1, 0.2, 0.3, 0.4], "d2h": [0.2, 0.4, 0.5, 0.6]}, 10)
    assert found == {"h2d": pytest.approx(100), "d2h": pytest.approx(50)}
    assert rates({"h2d": [0.1, 0.2], "d2h": [0.5, 0.9]}, 10)["d2h"] == pytest.approx(20)


def test_rows_are_medians_of_each_direction() -> None:
    case = Case("both", "contiguous", 1 << 20, 1, 2 * SLICES, True)
    second = [(i + 1) / SLICES for i in range(SLICES)]
    runs = [{"h2d": [t * scale for t in second], "d2h": [t * scale for t in second]} for scale in (1.0, 2.0, 9.0)]
    found = rows(case, runs)
    assert [row["direction"] for row in found] == ["both-h2d", "both-d2h"]
    for row in found:
        assert float(row["gb_per_s"]) == pytest.approx(2 * SLICES * (1 << 20) / 2.0 / 1e9, rel=1e-3)
        assert (row["with_compute"], row["repeats"], row["blocks"]) == (1, 3, 2 * SLICES)
    assert [row["direction"] for row in rows(replace(case, direction="d2h"), [{"d2h": second}])] == ["d2h"]


class FakeDevice:
    """A link with a fixed time per copy and a rate, half of it when the other direction is busy."""

    def __init__(self) -> None:
        self.now_s, self.ran = 0.0, 0

    def run(self, case: Case) -> dict[str, list[float]]:
        ways = ("h2d", "d2h") if case.direction == "both" else (case.direction,)
        took_s = case.blocks * case.pieces * (4e-6 + case.piece_bytes / (25e9 / len(ways)))
        self.now_s += took_s
        self.ran += 1
        return {way: [took_s * (i + 1) / SLICES for i in range(SLICES)] for way in ways}


def test_a_known_link_is_found_again() -> None:
    device = FakeDevice()
    found = list(measure(BLOCK, LAYERS, 60.0, device, lambda: device.now_s))
    assert len(found) == len(cases(BLOCK, LAYERS)) * 4 // 3
    assert device.ran == len(cases(BLOCK, LAYERS)) * (1 + REPEATS)
    for row in found:
        pieces = 2 * LAYERS if row["layout"] == "per-layer" else 1
        rate = 12.5e9 if row["direction"].startswith("both") else 25e9
        expected = row["block_bytes"] / (4e-6 * pieces + row["block_bytes"] / rate)
        assert float(row["gb_per_s"]) == pytest.approx(expected / 1e9, rel=1e-3)


def test_links_end_with_their_budget() -> None:
    device = FakeDevice()
    found = list(measure(BLOCK, LAYERS, 0.2, device, lambda: device.now_s))
    assert 0 < len(found) < 20
    assert device.now_s < 0.5


class FakeCuda:
    """The part of torch that CudaDevice uses: streams with clocks of their own, copies at 20 GB/s, products of 1 ms."""

    def __init__(self) -> None:
        self.default = self.current = self.Stream()
        self.copies: list[tuple[str, str, int, int]] = []       # from, to, where in the buffer, bytes
        self.products = 0
        events = {"Stream": self.Stream, "Event": lambda enable_timing: self.Event(self), "stream": self.on,
                  "synchronize": lambda: None}
        self.torch = SimpleNamespace(uint8=1, bfloat16=2, empty=self.empty, mm=self.mm, cuda=SimpleNamespace(**events),
                                     randn=lambda *shape, dtype, device: None)

    class Stream:
        now_s = 0.0

        def synchronize(self) -> None: ...

    class Event:
        def __init__(self, cuda: FakeCuda) -> None:
            self.cuda, self.at_s = cuda, 0.0

        def record(self, stream: FakeCuda.Stream | None = None) -> None:
            self.at_s = (stream or self.cuda.current).now_s

        def elapsed_time(self, end: FakeCuda.Event) -> float:
            return 1e3 * (end.at_s - self.at_s)

    class Buffer:
        def __init__(self, cuda: FakeCuda, place: str, start: int, size: int) -> None:
            self.cuda, self.place, self.start, self.size = cuda, place, start, size

        def __len__(self) -> int:
            return self.size

        def __getitem__(self, part: slice) -> FakeCuda.Buffer:
            assert 0 <= part.start < part.stop <= self.size
            return FakeCuda.Buffer(self.cuda, self.place, self.start + part.start, part.stop - part.start)

        def copy_(self, source: FakeCuda.Buffer, non_blocking: bool) -> None:
            assert non_blocking
            assert source.size == self.size
            assert self.cuda.current is not self.cuda.default
            self.cuda.copies.append((source.place, self.place, self.start, self.size))
            self.cuda.current.now_s += self.size / 20e9

    def empty(self, size: int, dtype: int, device: str = "host", pin_memory: bool = False) -> FakeCuda.Buffer:
        assert pin_memory == (device == "host")
        return self.Buffer(self, device, 0, size)

    def mm(self, *_: Any) -> None:
        self.products += 1
        self.current.now_s += 1e-3

    @contextmanager
    def on(self, stream: FakeCuda.Stream) -> Any:
        self.current = stream
        yield
        self.current = self.default


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "torch", fake.torch)
    return fake


@pytest.mark.parametrize("case", cases(BLOCK, LAYERS)[:15], ids=str)
def test_the_copies_are_those_of_the_case(cuda: FakeCuda, case: Case) -> None:
    device = CudaDevice()
    before = cuda.products
    found = rows(case, [device.run(case)])
    ways = {"h2d": ("host", "cuda"), "d2h": ("cuda", "host")}
    wanted = list(ways.values()) if case.direction == "both" else [ways[case.direction]]
    for way in wanted:
        sizes = [size for *places, _, size in cuda.copies if tuple(places) == way]
        assert sizes == [case.piece_bytes] * case.pieces * case.blocks
    assert len(cuda.copies) == len(wanted) * case.pieces * case.blocks
    assert (cuda.products > before) == case.with_compute
    assert [float(row["gb_per_s"]) for row in found] == [pytest.approx(20, rel=1e-3)] * len(wanted)


def test_compute_outlasts_the_copies(cuda: FakeCuda) -> None:
    device = CudaDevice()
    for case in cases(BLOCK, LAYERS)[:18]:
        start_s, before = cuda.default.now_s, {stream: stream.now_s for stream in device._streams.values()}
        device.run(case)
        if case.with_compute:
            assert cuda.default.now_s - start_s > max(stream.now_s - before[stream] for stream in before)
