"""One request as the policy sees it: vLLM's own record of it, its reader, and where its KV is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf, nan
from typing import Any

from policies.api import Residency
from traces import cells
from traces.pace import Changes, Pace, parse

DEFAULT_CONSUMPTION_RATE = 20.0     # tokens per second, for requests that come without one

def _limit_s(text: str) -> float:
    return nan if text == "nan" else cells.positive(text)


#: what a request may say of its reader, and what its text means
_READS: Mapping[str, Callable[[str], Any]] = {"consumption_rate": parse, "priority": cells.positive, "ttft_slo_s": _limit_s,
                                              "tpot_slo_s": _limit_s, "reader": cells.yes_or_no}


@dataclass(slots=True, eq=False)
class Stream:
    """What vLLM does not know about a request. `request` is vLLM's Request; `id` ascends with arrival, as View.id does."""

    request: Any
    id: int
    arrival_s: float
    moved_s: float                      #: when residency last changed
    consumption_rate: float = DEFAULT_CONSUMPTION_RATE      #: at which the newest token is read
    rate_changes: Changes = ()          #: yet to come
    priority: float = 1.0
    ttft_slo_s: float = nan
    tpot_slo_s: float = nan
    reader: int = 1
    read_until_s: float = -inf
    host_tokens: float = 0.0
    residency: int = Residency.NONE
    misread: tuple[str, ...] = ()       #: what was said of the reader and makes no sense, and why

    @classmethod
    def of(cls, request: Any, id: int, now_s: float) -> Stream:
        """The reader is described by SamplingParams.extra_args (`vllm_xargs` over HTTP), under the names of the View's columns.

        `consumption_rate` may be a pace as text ("30/10@200"). What makes no sense is `misread`, and the default counts: any
        client may send anything, and a request must not end the engine.
        """
        given = (request.sampling_params and request.sampling_params.extra_args) or {}
        stream = cls(request, id, now_s, now_s)
        for name in _READS.keys() & given.keys():
            try:
                value = _READS[name](str(given[name]))
            except ValueError as error:
                stream.misread += (f"{name}: {cells.shown(given[name])} {error}",)
                continue
            if isinstance(value, Pace):
                stream.rate_changes, value = value.changes, value.tps
            setattr(stream, name, value)
        return stream

    @property
    def name(self) -> str:
        """The id that vLLM knows it by."""
        name: str = self.request.request_id
        return name

    @property
    def computed_tokens(self) -> int:
        """KV that exists; vLLM forgets it when the request leaves the GPU, and knows of it again once a load has begun."""
        computed: int = self.request.num_computed_tokens
        return int(self.host_tokens) if self.residency in (Residency.HOST, Residency.LOADING) else computed

    @property
    def remaining_tokens(self) -> int:
        remaining: int = self.request.num_tokens - self.computed_tokens
        return remaining

    def move(self, residency: int, when_s: float) -> None:
        self.residency, self.moved_s = residency, when_s

    def change_rate(self) -> None:
        """The newest token may be the first that is read at the next rate."""
        if self.request.num_output_tokens > self.rate_changes[0][0]:
            (_, self.consumption_rate), *later = self.rate_changes
            self.rate_changes = tuple(later)

    def buffered_tokens(self, now_s: float) -> float:
        """Delivered and not read yet, as `View.buffered_tokens`; 0 where nobody reads."""
        return max(self.read_until_s - now_s, 0.0) * self.consumption_rate if self.reader else 0.0

    def host_blocks(self, block_size: int, stored: bool) -> int:
        """Host blocks it holds: for its whole KV while it is away or being written through (`stored`), else for its copy."""
        whole = stored or self.residency >= Residency.HOST
        return -int(-(self.computed_tokens if whole else self.host_tokens) // block_size)


def deliver(streams: Iterable[Stream], now_s: float) -> None:
    """One more token in each reader's buffer (`sim.token_buffer`, for a single token); every token of the engine passes here."""
    for stream in streams:
        due_s = stream.read_until_s + 1.0 / stream.consumption_rate
        stream.read_until_s = due_s if due_s > now_s else now_s
        if stream.rate_changes:
            stream.change_rate()
