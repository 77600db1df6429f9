"""For how long a batch that decodes finds blocks."""

from __future__ import annotations

from .stream import Stream


def steps_that_fit(decoding: list[Stream], storing: list[Stream], gpu_blocks: int, host_blocks: int, block_size: int) -> int:
    """Decode steps for which there are surely blocks on both tiers; 0 only if not even for one."""
    if not decoding:
        return 1
    fit = _steps_until_full(decoding, gpu_blocks, block_size)
    growing = set(decoding)
    copied = [stream for stream in storing if stream in growing]
    return min(fit, _steps_until_full(copied, host_blocks, block_size)) if copied else fit


def _steps_until_full(growing: list[Stream], blocks: int, block_size: int) -> int:
    """A block is taken by whose last one is full; in a cycle of `block_size` steps everybody takes one."""
    cycles, rest = divmod(max(blocks, 0), len(growing))
    takes = sorted(-stream.request.num_computed_tokens % block_size for stream in growing)      # in which step of a cycle
    return int(cycles * block_size + takes[rest])
