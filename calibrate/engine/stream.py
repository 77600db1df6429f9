"""One request as the policy sees it: vLLM's own record of it, its reader, and where its KV is."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan
from typing import Any

from policies.api import Residency
from traces.pace import Changes, Pace, parse

DEFAULT_CONSUMPTION_RATE = 20.0     # tokens per second, for requests that come without one


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

    @classmethod
    def of(cls, request: Any, id: int, now_s: float) -> Stream:
        """The reader is described by SamplingParams.extra_args (`vllm_xargs` over HTTP), under the names of the View's columns.

        `consumption_rate` may be a pace as text ("30/10@200").
        """
        given = (request.sampling_params and request.sampling_params.extra_args) or {}
        stream = cls(request, id, now_s, now_s, reader=int(given.get("reader", 1)))
        for name in ("priority", "ttft_slo_s", "tpot_slo_s"):
            setattr(stream, name, float(given.get(name, getattr(stream, name))))
        rate = parse(str(given.get("consumption_rate", DEFAULT_CONSUMPTION_RATE)))
        stream.consumption_rate, stream.rate_changes = (rate.tps, rate.changes) if isinstance(rate, Pace) else (rate, ())
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

    def deliver(self, now_s: float) -> None:
        """One more token in the reader's buffer (`sim.token_buffer`, for a single token)."""
        gap_s = 1.0 / self.consumption_rate
        self.read_until_s = max(self.read_until_s, now_s - gap_s) + gap_s
        if self.rate_changes and self.request.num_output_tokens > self.rate_changes[0][0]:
            (_, self.consumption_rate), *later = self.rate_changes
            self.rate_changes = tuple(later)

    def host_blocks(self, block_size: int, stored: bool) -> int:
        """Host blocks it holds: for its whole KV while it is away or being written through (`stored`), else for its copy."""
        whole = stored or self.residency >= Residency.HOST
        return -int(-(self.computed_tokens if whole else self.host_tokens) // block_size)
