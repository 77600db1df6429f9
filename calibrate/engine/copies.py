"""What the two sides of the host tier tell each other, once a step, beside vLLM's own messages."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorWorkerMetadata

Pair = tuple[int, int]      # (GPU block, host slot)


@dataclass
class Copies(KVConnectorMetadata):  # type: ignore[misc]
    """From the scheduler, with a step: what to copy, in this order."""

    evict: dict[str, list[Pair]] = field(default_factory=dict)      #: by request; its KV is not touched meanwhile
    write: list[Pair] = field(default_factory=list)                 #: full blocks of residents; over before the step is
    load: dict[str, list[Pair]] = field(default_factory=dict)
    #: emulated links only: when each request's copy that is under way is across, and when `write` is; on the scheduler's clock
    across_s: dict[str, float] | None = None
    written_s: float = 0.0


@dataclass
class Across(KVConnectorWorkerMetadata):  # type: ignore[misc]
    """From the worker, after a step. Loads are reported in vLLM's own way."""

    evicted: list[str] = field(default_factory=list)
    waited_s: float = 0.0           #: the step was over, its written-through blocks not across yet; of an emulated link

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        raise AssertionError("there is one worker: `requirements` refuses more")
