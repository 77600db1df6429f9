"""Which slots of the host pool hold whose blocks."""

from __future__ import annotations


class HostPool:
    """`total_blocks` slots; a request's i-th block has its own, for as long as any copy of it may be wanted."""

    def __init__(self, total_blocks: int) -> None:
        self.total_blocks = total_blocks
        self._free = list(range(total_blocks))[::-1]
        self._held: dict[str, list[int]] = {}

    @property
    def free_blocks(self) -> int:
        return len(self._free)

    def slots(self, request_id: str, first: int, end: int) -> list[int]:
        """Slots of blocks `first` to `end` - 1, taken now where it has none yet."""
        held = self._held.setdefault(request_id, [])
        while len(held) < end:
            if not self._free:
                raise RuntimeError(f"the host pool of {self.total_blocks} blocks is full, {request_id} needs {end - len(held)}")
            held.append(self._free.pop())
        return held[first:end]

    def forget(self, request_id: str) -> None:
        """Its slots are anybody's."""
        self._free += self._held.pop(request_id, [])[::-1]
