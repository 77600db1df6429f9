"""What vLLM must be started with for a policy to schedule it, and what the scheduler makes of that in its own process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from policies.api import Policy
from sim.hardware import load_hardware, step_times
from sim.machine import Machine
from sim.policy_choice import choose
from traces import BadInput

_KEY = "tokenflow"          # in additional_config
#: one step in flight, and no blocks shared between requests: what plans are about
_ALWAYS: Mapping[str, Any] = {"async_scheduling": False, "enable_prefix_caching": False}
#: the same for vLLM's own scheduler, left alone
STOCK_ARGS: Mapping[str, Any] = _ALWAYS


@dataclass(frozen=True)
class Steering:
    """A policy and what it believes. Travels to vLLM's process as JSON."""

    policy: str                     #: as `tokenflow run --policy` takes it
    profile: str                    #: hardware profile: a built-in name, or the path of a JSON file
    model: str                      #: whose step times in it
    parameters: Mapping[str, Any] = field(default_factory=dict)     #: the policy's arguments
    host_blocks: int = 0            #: of the host pool; 0: no host tier
    link_gb_per_s: float | None = None      #: of an emulated link, each way; None: the real one, at the profile's rates
    host_gib: float = 0.0           #: the host pool as memory, where `host_blocks` does not say it

    @classmethod
    def of(cls, vllm_config: Any) -> Steering | None:
        """As `engine_args` put it into additional_config, if it is there."""
        given = getattr(vllm_config, "additional_config", None)
        return cls(**given[_KEY]) if isinstance(given, Mapping) and _KEY in given else None

    @property
    def emulated(self) -> bool:
        return self.link_gb_per_s is not None

    @property
    def host_tier(self) -> bool:
        return bool(self.host_blocks or self.host_gib)

    def check(self) -> None:
        """BadInput where vLLM's process would fail on it, half a minute later."""
        self.planner()
        profile = load_hardware(self.profile)
        step_times(profile, self.model)
        if self.host_tier and profile.link is None and not self.emulated:
            raise BadInput("host tier", profile.name, "knows of no link between GPU and host; --emulate-link gives one")

    def planner(self) -> Policy:
        return choose(self.policy, [f"{name}={value}" for name, value in self.parameters.items()]).policy

    def machine(self, vllm_config: Any, kv_cache_config: Any) -> Machine:
        """The engine that vLLM has set up, as the policy knows it."""
        (group,), cache, limits = kv_cache_config.kv_cache_groups, vllm_config.cache_config, vllm_config.scheduler_config
        return self.on(kv_cache_config.num_blocks, cache.block_size, limits.max_num_seqs, limits.max_num_batched_tokens,
                       bytes_of_a_block(kv_cache_config) / cache.block_size, len(group.layer_names),
                       pool_blocks(asdict(self), kv_cache_config))

    def on(self, num_gpu_blocks: int, block_size: int, max_num_seqs: int, max_num_batched_tokens: int, kv_token_bytes: float,
           layers: int, host_blocks: int | None = None) -> Machine:
        """The same of an engine that is yet to start, by vLLM's names; one of its blocks is the null block."""
        profile = load_hardware(self.profile)
        latency, pcie = step_times(profile, self.model)[1].latency.with_host(profile.host_s.value), profile.link
        if self.link_gb_per_s is not None:
            links = dict.fromkeys(("h2d_bytes_per_s", "d2h_bytes_per_s"), self.link_gb_per_s * 1e9) | {"copy_overhead_s": 0.0}
        elif pcie is not None:
            links = {"h2d_bytes_per_s": pcie.h2d_bytes_per_s, "d2h_bytes_per_s": pcie.d2h_bytes_per_s,
                     "duplex_h2d": pcie.duplex_h2d, "duplex_d2h": pcie.duplex_d2h, "copy_overhead_s": pcie.copy_overhead_s}
        else:
            links = {}
        return Machine(latency, num_gpu_blocks - 1, self.host_blocks if host_blocks is None else host_blocks, block_size,
                       kv_token_bytes=kv_token_bytes, max_seqs=max_num_seqs, max_step_tokens=max_num_batched_tokens,
                       write_share=profile.write_share, write_whole_blocks=True, copies_per_block=layers, **links)

    def engine_args(self) -> dict[str, Any]:
        """Keyword arguments of vLLM's EngineArgs."""
        pool = {"host_blocks": self.host_blocks, "host_gib": self.host_gib}
        connector = {"kv_connector": "HostTierConnector", "kv_connector_module_path": "calibrate.engine.kv_connector",
                     "kv_role": "kv_both", "kv_connector_extra_config": pool}
        return {**_ALWAYS, "scheduler_cls": "calibrate.engine.scheduler.PlanScheduler",
                "additional_config": {_KEY: asdict(self)}, "kv_transfer_config": connector}


def pool_blocks(given: Mapping[str, Any], kv_cache_config: Any) -> int:
    """Slots of the host pool: `host_blocks`, or as many as fit `host_gib`."""
    if given["host_blocks"] or not given.get("host_gib"):
        return int(given["host_blocks"])
    return int(given["host_gib"] * 2**30 // bytes_of_a_block(kv_cache_config))


def bytes_of_a_block(kv_cache_config: Any) -> int:
    """Of all layers. Plans are about models whose layers share one block table."""
    (group,) = kv_cache_config.kv_cache_groups
    return int(group.kv_cache_spec.page_size_bytes) * len(group.layer_names)
