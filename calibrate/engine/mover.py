"""Moves KV blocks between the engine's tensors and a pool in host memory.

On a CPU both are the same memory: a copy is over when the call returns. On CUDA the pool is pinned, each direction has a stream
of its own, and all pieces of a copy are one call into the driver, as in vLLM's own offloading. Written for CUDA, where it has not
run yet: tests hold its arithmetic to the CPU's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from .copies import Pair


class Mover:
    """`layers`: the engine's tensors and the pool's, each (blocks or slots, ...), in pieces whose blocks have no gaps; a CPU's."""

    def __init__(self, kv_caches: Mapping[str, torch.Tensor], blocks: int, slots: int) -> None:
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        for name, kv in kv_caches.items():
            if blocks not in kv.shape:
                raise ValueError(f"layer {name}: KV tensor of shape {tuple(kv.shape)} for {blocks} blocks")
            for gpu in _without_gaps(kv.movedim(kv.shape.index(blocks), 0)):
                host = torch.empty_strided((slots, *gpu.shape[1:]), (gpu[0].numel(), *gpu.stride()[1:]), dtype=gpu.dtype,
                                           pin_memory=gpu.is_cuda)
                self.layers.append((gpu, host))

    def begin_step(self) -> None:
        """All KV of the steps before this one is there."""

    def to_host(self, pairs: Sequence[Pair]) -> Any:
        """Begins a copy; what it returns is over when `over` says so."""
        blocks, slots = _columns(pairs)
        for gpu, host in self.layers:
            host[slots] = gpu[blocks]

    def to_gpu(self, pairs: Sequence[Pair]) -> Any:
        blocks, slots = _columns(pairs)
        for gpu, host in self.layers:
            gpu[blocks] = host[slots]

    def over(self, copy: Any) -> bool:
        return True

    def wait(self, copy: Any) -> None:
        """Until it is over."""


class CudaMover(Mover):
    def __init__(self, kv_caches: Mapping[str, torch.Tensor], blocks: int, slots: int) -> None:
        super().__init__(kv_caches, blocks, slots)
        self._there, self._d2h, self._h2d = torch.cuda.Event(), torch.cuda.Stream(), torch.cuda.Stream()
        self._gpu, self._host = _Places([gpu for gpu, _ in self.layers]), _Places([host for _, host in self.layers])

    def begin_step(self) -> None:
        self._there.record()        # on the stream that computes: neither direction copies what is still being made, or still read

    def to_host(self, pairs: Sequence[Pair]) -> Any:
        blocks, slots = _columns(pairs)
        return self._copy(self._d2h, self._gpu.addresses(blocks), self._host.addresses(slots))

    def to_gpu(self, pairs: Sequence[Pair]) -> Any:
        blocks, slots = _columns(pairs)
        return self._copy(self._h2d, self._host.addresses(slots), self._gpu.addresses(blocks))

    def _copy(self, stream: Any, source: torch.Tensor, to: torch.Tensor) -> Any:
        from vllm import _custom_ops
        stream.wait_event(self._there)
        with torch.cuda.stream(stream):
            _custom_ops.swap_blocks_batch(source.flatten(), to.flatten(), self._gpu.block_bytes.expand_as(source).flatten())
            event = torch.cuda.Event()
            event.record()
        return event

    def over(self, copy: Any) -> bool:
        return bool(copy.query())

    def wait(self, copy: Any) -> None:
        copy.synchronize()


def _without_gaps(kv: torch.Tensor) -> Iterator[torch.Tensor]:
    """Views of `kv`, (blocks, ...), that together are all of it; in each a block's bytes follow one another, in whatever order."""
    block = kv[0]
    if sum((size - 1) * stride for size, stride in zip(block.shape, block.stride())) + 1 == block.numel():
        yield kv
    else:
        for part in kv.unbind(1):
            yield from _without_gaps(part)


class _Places:
    """Where the blocks of each piece lie in memory; shapes (pieces, 1)."""

    def __init__(self, pieces: Sequence[torch.Tensor]) -> None:
        self._begins = torch.tensor([[piece.data_ptr()] for piece in pieces])
        self._steps = torch.tensor([[piece.stride(0) * piece.itemsize] for piece in pieces])
        self.block_bytes = torch.tensor([[piece[0].numel() * piece.itemsize] for piece in pieces])

    def addresses(self, at: torch.Tensor) -> torch.Tensor:
        """Of these blocks, or slots, in every piece; shape (pieces, len(at))."""
        return self._begins + self._steps * at


def _columns(pairs: Sequence[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    table = torch.tensor(pairs, dtype=torch.long)
    return table[:, 0], table[:, 1]
