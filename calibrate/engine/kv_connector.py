"""The host tier as a vLLM KV connector: between vLLM's scheduler and `HostTier`, and between its worker and `HostWorker`.

vLLM also has connectors report statistics, to whoever serves /metrics: that is how a policy's get there (`metrics`).
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, KVConnectorRole

from .copies import Across
from .host_tier import HostTier
from .host_worker import HostWorker
from .metrics import Exported, Snapshots, Stats
from .mover import CudaMover, Mover
from .steering import pool_blocks


class HostTierConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """vLLM makes one for the scheduler, which gives it its `tier`, and one for the worker."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.tier: HostTier | None = None
        self.snapshots: Snapshots | None = None
        self.worker: HostWorker | None = None

    @property
    def requires_kv_delivery(self) -> bool:
        return False                # a copy that nobody takes is no loss

    # ---- of the scheduler

    @property
    def _tier(self) -> HostTier:
        if self.tier is None:
            raise RuntimeError("the host tier needs --scheduler-cls calibrate.engine.scheduler.PlanScheduler")
        return self.tier

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        tokens = self._tier.tokens_to_load(request.request_id)
        return tokens, tokens > 0

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if num_external_tokens:
            self._tier.begin_load(request.request_id, blocks.get_block_ids()[0])

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return self._tier.take_orders()

    def update_connector_output(self, connector_output: Any) -> None:
        worker = connector_output.kv_connector_worker_meta
        self._tier.report(connector_output.finished_recving or (), worker if isinstance(worker, Across) else None)

    def get_kv_connector_stats(self) -> Stats | None:
        return self.snapshots.due() if self.snapshots else None

    def get_loaded_kv_cache_group_ids(self, request: Any) -> tuple[int, ...]:
        return ()

    # ---- of the process that serves /metrics

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> Stats:
        return Stats(data or {})

    @classmethod
    def build_prom_metrics(cls, vllm_config: Any, metric_types: Any, labelnames: list[str],
                           per_engine_labelvalues: dict[int, list[object]]) -> Exported:
        return Exported(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    # ---- of the worker

    @property
    def _worker(self) -> HostWorker:
        assert self.worker is not None, "vLLM registers its KV caches first"
        return self.worker

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        slots = pool_blocks(self._kv_transfer_config.kv_connector_extra_config, self._kv_cache_config)
        on_gpu = any(kv.is_cuda for kv in kv_caches.values())
        self.worker = HostWorker((CudaMover if on_gpu else Mover)(kv_caches, self._kv_cache_config.num_blocks, slots))

    def handle_preemptions(self, kv_connector_metadata: Any) -> None:
        self._worker.begin(kv_connector_metadata)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        self._worker.load(self._get_connector_metadata())

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass                        # nobody computes who has not landed

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        pass                        # full blocks are written during a later step

    def wait_for_save(self) -> None:
        self._worker.finish_writes()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        return None, self._worker.loaded() or None

    def build_connector_worker_meta(self) -> Across:
        return self._worker.across()
