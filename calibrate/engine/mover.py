"""Moves KV blocks between the engine's tensors and a pool in host memory.

On a CPU both are the same memory: a copy is over when the call returns. On CUDA the pool is pinned, and each direction has a
stream of its own. Written for CUDA, where it has not run yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .copies import Pair


class Mover:
    """One pool per layer, shape (slots, ...) as the layer's own (blocks, ...); a CPU's."""

    def __init__(self, kv_caches: Mapping[str, torch.Tensor], blocks: int, slots: int) -> None:
        self.layers = []
        for name, kv in kv_caches.items():
            if blocks not in kv.shape:
                raise ValueError(f"layer {name}: KV tensor of shape {tuple(kv.shape)} for {blocks} blocks")
            gpu = kv.movedim(kv.shape.index(blocks), 0)
            self.layers.append((gpu, torch.empty((slots, *gpu.shape[1:]), dtype=gpu.dtype, pin_memory=gpu.is_cuda)))

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

    def begin_step(self) -> None:
        self._there.record()        # on the stream that computes: neither direction copies what is still being made, or still read

    def to_host(self, pairs: Sequence[Pair]) -> Any:
        return self._copy(self._d2h, pairs, lambda gpu, host, block, slot: host[slot].copy_(gpu[block], non_blocking=True))

    def to_gpu(self, pairs: Sequence[Pair]) -> Any:
        return self._copy(self._h2d, pairs, lambda gpu, host, block, slot: gpu[block].copy_(host[slot], non_blocking=True))

    def _copy(self, stream: Any, pairs: Sequence[Pair], one: Any) -> Any:
        stream.wait_event(self._there)
        with torch.cuda.stream(stream):
            for gpu, host in self.layers:
                for block, slot in pairs:
                    one(gpu, host, block, slot)
            event = torch.cuda.Event()
            event.record()
        return event

    def over(self, copy: Any) -> bool:
        return bool(copy.query())

    def wait(self, copy: Any) -> None:
        copy.synchronize()


def _columns(pairs: Sequence[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    table = torch.tensor(pairs, dtype=torch.long)
    return table[:, 0], table[:, 1]
