"""The host tier as the scheduler needs it. Whoever implements it is also the KV connector that vLLM itself talks to."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Chunk(NamedTuple):
    """KV of one resident that may be written through during the coming step."""

    request_id: str
    unwritten: float        #: tokens without a host copy before the step
    fresh: int              #: tokens that the step itself makes; they can be written only after it


class HostTier(Protocol):
    """A pool of host blocks and a link each way. Requests go by vLLM's ids, times are on the scheduler's clock.

    The scheduler decides who is copied and counts the blocks; the tier moves the bytes and says when they are across.
    """

    @property
    def total_blocks(self) -> int: ...

    @property
    def h2d_free_s(self) -> float:
        """When everything queued from the host to the GPU is across."""

    @property
    def d2h_free_s(self) -> float: ...

    def evict(self, request_id: str, blocks: int) -> None:
        """Copy the last `blocks` blocks of a resident to the host; it computes nothing until they are across."""

    def load(self, request_id: str, tokens: int) -> None:
        """In the coming schedule(), answer vLLM that this request has so many tokens to load, and start the copy."""

    def forget(self, request_id: str) -> None:
        """Nobody needs this request's host copy any more."""

    def write(self, chunks: list[Chunk]) -> None:
        """Write through during the coming step what it can hide, in this order."""

    def unwritten(self) -> list[float]:
        """Tokens still without a copy after that step, `fresh` ones included, per chunk."""

    def across(self) -> list[tuple[str, float]]:
        """Whose evictions and loads are complete since the last call, and when; a load only once vLLM knows as well."""


class NoHost:
    """Where no KV connector is configured: no plan that copies anything is legal."""

    total_blocks = 0
    h2d_free_s = d2h_free_s = 0.0

    def evict(self, request_id: str, blocks: int) -> None:
        raise AssertionError("there is no host tier")

    def load(self, request_id: str, tokens: int) -> None:
        raise AssertionError("there is no host tier")

    def forget(self, request_id: str) -> None:
        pass

    def write(self, chunks: list[Chunk]) -> None:
        raise AssertionError("there is no host tier")

    def unwritten(self) -> list[float]:
        return []

    def across(self) -> list[tuple[str, float]]:
        return []
