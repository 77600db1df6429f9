"""One engine on one GPU, as numbers: what the model machine runs on and what its policy believes about it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from .latency import LatencyModel


@dataclass(frozen=True)
class Machine:
    """Resolved from a hardware profile, a model and the user's options; see `sim.hardware.build_machine`."""

    latency: LatencyModel
    kv_blocks: int                          #: GPU blocks that requests can hold (the engine's null block not counted)
    host_kv_blocks: int                     #: host pool; inclusive: a written-through request holds blocks on both tiers
    block_size: int = 16                    #: tokens per KV block
    kv_token_bytes: float = 131_072.0       #: KV bytes of one token over all layers
    max_seqs: int = 256                     #: requests that may hold GPU blocks
    max_step_tokens: int = 2048
    h2d_bytes_per_s: float = 25e9
    d2h_bytes_per_s: float = 25e9
    duplex_h2d: float = 1.0                 #: share of its rate that a direction keeps while the other copies too
    duplex_d2h: float = 1.0
    copy_overhead_s: float = 3.5e-6         #: per copy
    copies_per_block: int = 1               #: 1 for contiguous blocks, 2 x layers for per-layer ones
    write_share: float = 0.9                #: share of a step's believed duration that write-through may fill
    write_whole_blocks: bool = False        #: written through when full, as vLLM's blocks are; else token by token, as SGLang's
    believed_step: float = 1.0              #: the policy's step times = the truth x this
    believed_link: float = 1.0              #: the policy's link rates = the truth x this

    def __post_init__(self) -> None:
        for name in ("kv_blocks", "block_size", "max_seqs", "max_step_tokens", "copies_per_block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("kv_token_bytes", "h2d_bytes_per_s", "d2h_bytes_per_s", "believed_step", "believed_link"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.host_kv_blocks < 0 or not (isfinite(self.copy_overhead_s) and self.copy_overhead_s >= 0):
            raise ValueError("host_kv_blocks and copy_overhead_s must not be negative, "
                             f"got {self.host_kv_blocks}, {self.copy_overhead_s}")
        for name in ("write_share", "duplex_h2d", "duplex_d2h"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")

    def block_copy_s(self, bytes_per_s: float) -> float:
        """Seconds to copy one KV block over a link of this rate, overhead included."""
        return self.copies_per_block * self.copy_overhead_s + self.block_size * self.kv_token_bytes / bytes_per_s
