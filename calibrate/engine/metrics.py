"""What a policy does to readers and to KV, for /metrics: from the scheduler's process to the one that serves it.

`Snapshots` looks at the scheduler now and then, `Stats` travels as vLLM's statistics of a KV connector, `Exported` is what
Prometheus sees. Names begin with `tokenflow:`, labels are those of vLLM's own metrics.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

from policies.api import Residency

from .steering import Steering

PERIOD_S = 0.5      #: between two snapshots; one costs as much as a look at every request
RESIDENCIES = {Residency.NONE: "none", Residency.GPU: "gpu", Residency.HOST: "host", Residency.LOADING: "loading",
               Residency.EVICTING: "evicting"}

COUNTERS = {
    "decisions": "Plans asked of the policy.",
    "steps": "Engine steps that computed anything.",
    "plan_departures": "Steps that vLLM did otherwise than planned.",
    "policy_fallbacks": "Policies that failed and were replaced by first come first served.",
    "preemptions": "Requests that were made to leave the GPU: offloads and drops.",
    "offloads": "Preemptions that kept the KV on the host.",
    "drops": "Preemptions that gave the KV up.",
    "loads": "Requests whose KV was ordered back from the host.",
    "recomputed_tokens": "Tokens whose KV had existed and was computed again.",
    "invalid_xargs": "Requests that described their reader in a way that makes no sense; defaults counted.",
}
GAUGES = {
    "buffered_tokens": "Tokens delivered and not read yet, of requests in the engine, at their readers' rates.",
    "stalled_streams": "Readers in the middle of an answer with nothing left to read.",
    "host_blocks_total": "KV blocks of the host pool.",
    "host_blocks_used": "KV blocks of the host pool that hold a copy, or are kept for one.",
}
BY_RESIDENCY = {
    "streams": "Requests in the engine, by where their KV is.",
    "buffered_tokens_by_residency": "Tokens delivered and not read yet, by where the request's KV is.",
}
#: of the link between GPU and host, labelled with whether it is emulated
LINK_COUNTERS = {
    "written_through_bytes": "KV copied to the host while its request went on.",
    "evicted_bytes": "KV copied to the host while its request waited for that.",
    "loaded_bytes": "KV copied back to the GPU.",
    "link_h2d_busy_seconds": "Time that copies from host to GPU took, or are believed to take.",
    "link_d2h_busy_seconds": "Time that copies from GPU to host took, or are believed to take.",
}
POLICY_INFO = "What schedules, and what it believes; always 1."


class Stats(KVConnectorStats):  # type: ignore[misc]
    """`counted`: what was added since the last one; `now`: gauges; and those by residency, under their names."""

    data: dict[str, Any]

    def is_empty(self) -> bool:
        return not self.data

    def reset(self) -> None:
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        if self.data:
            counted, more = self.data["counted"], other.data["counted"]
            self.data = other.data | {"counted": {name: counted[name] + more[name] for name in counted}}
        else:
            self.data = other.data
        return self

    def reduce(self) -> dict[str, int | float]:
        """For vLLM's line in the log every ten seconds."""
        counted, now = self.data["counted"], self.data["now"]
        return ({name: counted[name] for name in ("decisions", "preemptions", "loads", "plan_departures")}
                | {name: round(now[name], 1) for name in ("buffered_tokens", "stalled_streams", "host_blocks_used")})


class Snapshots:
    """Of one scheduler, not more often than every `PERIOD_S`, and when it has become idle."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler, self._told = scheduler, dict[str, float]()
        self._next_s, self._untold = 0.0, True

    def due(self) -> Stats | None:
        now_s, streams = self._scheduler.clock(), self._scheduler.streams
        self._untold |= bool(streams)
        if now_s < self._next_s if streams else not self._untold:
            return None
        self._next_s, self._untold = now_s + PERIOD_S, bool(streams)
        return Stats(self._look(now_s))

    def _look(self, now_s: float) -> dict[str, Any]:
        scheduler = self._scheduler
        count, pool, links = scheduler.count, scheduler.host.pool, scheduler.host.totals()
        so_far = {
            "decisions": count.decisions, "steps": scheduler.steps, "plan_departures": scheduler.departures,
            "policy_fallbacks": scheduler.fallbacks, "preemptions": count.preemptions, "offloads": count.offloads,
            "drops": count.drops, "loads": count.loads, "recomputed_tokens": count.recomputed_tokens,
            "invalid_xargs": scheduler.arrivals.misread, "written_through_bytes": links["write_through_bytes"],
            "evicted_bytes": links["d2h_bytes"] - links["write_through_bytes"], "loaded_bytes": links["h2d_bytes"],
            "link_h2d_busy_seconds": links["h2d_busy_s"], "link_d2h_busy_seconds": links["d2h_busy_s"],
        }
        # Fractions of blocks are summed apart, and a counter must not go back by a rounding.
        counted = {name: max(value - self._told.get(name, 0), 0) for name, value in so_far.items()}
        self._told = so_far
        streams, buffered = dict.fromkeys(RESIDENCIES.values(), 0), dict.fromkeys(RESIDENCIES.values(), 0.0)
        stalled = 0
        for stream in scheduler.streams.values():
            home, tokens = RESIDENCIES[stream.residency], stream.buffered_tokens(now_s)
            streams[home] += 1
            buffered[home] += tokens
            stalled += bool(stream.reader and stream.request.num_output_tokens and not tokens)
        now = {"buffered_tokens": sum(buffered.values()), "stalled_streams": stalled, "host_blocks_total": pool.total_blocks,
               "host_blocks_used": pool.total_blocks - pool.free_blocks}
        return {"counted": counted, "now": now, "streams": streams, "buffered_tokens_by_residency": buffered}


class Exported(KVConnectorPromMetrics):  # type: ignore[misc]
    """Prometheus metrics, of each engine."""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str],
                 per_engine_labelvalues: dict[int, list[object]]) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        steering = Steering.of(vllm_config)
        link = {"emulated_link": str(bool(steering and steering.emulated)).lower()}
        self._counters = {name: self._of_engines(self._counter(name, text)) for name, text in COUNTERS.items()}
        for name, text in LINK_COUNTERS.items():
            self._counters[name] = self._of_engines(self._counter(name, text, *link), *link.values())
        self._gauges = {name: self._of_engines(self._gauge(name, text)) for name, text in GAUGES.items()}
        self._by_residency = {}
        for name, text in BY_RESIDENCY.items():
            gauge = self._gauge(name, text, "residency")
            self._by_residency[name] = {home: self._of_engines(gauge, home) for home in RESIDENCIES.values()}
        if steering:
            told = {"policy": steering.policy, "profile": steering.profile, "profile_model": steering.model} | link
            told["emulated_link_gb_per_s"] = str(steering.link_gb_per_s or "")
            for info in self._of_engines(self._gauge("policy_info", POLICY_INFO, *told), *told.values()).values():
                info.set(1)

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for name, added in transfer_stats_data["counted"].items():
            self._counters[name][engine_idx].inc(added)
        for name, value in transfer_stats_data["now"].items():
            self._gauges[name][engine_idx].set(value)
        for name, by_home in self._by_residency.items():
            for home, gauges in by_home.items():
                gauges[engine_idx].set(transfer_stats_data[name][home])

    def _counter(self, name: str, text: str, *labels: str) -> Any:
        return self._counter_cls(name=f"tokenflow:{name}", documentation=text, labelnames=[*self._labelnames, *labels])

    def _gauge(self, name: str, text: str, *labels: str) -> Any:
        return self._gauge_cls(name=f"tokenflow:{name}", documentation=text, labelnames=[*self._labelnames, *labels],
                               multiprocess_mode="mostrecent")

    def _of_engines(self, metric: Any, *labels: str) -> dict[int, Any]:
        return {engine: metric.labels(*values, *labels) for engine, values in self.per_engine_labelvalues.items()}
