"""vLLM's real scheduler and host tier on a virtual clock: a stub configuration, a model that says 7, and emulated links."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from functools import partial
from types import SimpleNamespace as Stub
from typing import Any

import numpy as np
import simpy
import torch
from cases import Ask
from recording import Recording
from vllm.config import CacheConfig, ObservabilityConfig, ParallelConfig, SchedulerConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from calibrate.engine.host_tier import HostTier
from calibrate.engine.host_worker import HostWorker
from calibrate.engine.kv_connector import HostTierConnector
from calibrate.engine.scheduler import PlanScheduler
from policies.api import HOLDS_BLOCKS, Plan, Policy, Residency, View, blocks_for
from sim.beliefs import Beliefs
from sim.machine import Machine
from traces.pace import Pace

LONGEST = 16_384    # tokens; vLLM ends a request there
STOP = 2            # the token after which a request says no more


class FakeModel:
    """Its KV says whose it is and where: request, position. Whoever runs first after coming back must find its own."""

    def __init__(self, machine: Machine) -> None:
        self._bs = machine.block_size
        self.kv = torch.zeros((machine.kv_blocks + 1, machine.block_size), dtype=torch.int64)   # one is vLLM's null block
        self._flat = self.kv.numpy().reshape(-1)
        self._written: dict[str, int] = {}          # tokens that it had after its last step
        self.verified = 0                           # times that a request found its KV

    def run(self, batch: dict[str, int], vllm: Any) -> None:
        for name, tokens in batch.items():
            request = vllm.requests[name]
            end = request.num_computed_tokens           # the step's own tokens are counted
            blocks = vllm.kv_cache_manager.get_block_ids(name)[0]
            stamp = (int(name) + 1) * 2 * LONGEST
            if end - tokens and (request.num_preemptions, blocks[0]) != self._written.get(name):
                slots = self._slots(blocks, 0, end - tokens)
                assert np.array_equal(self._flat[slots], stamp + np.arange(end - tokens)), f"{name} came back to others' KV"
                self.verified += 1
            self._written[name] = request.num_preemptions, blocks[0]
            if tokens == 1:
                self._flat[blocks[(end - 1) // self._bs] * self._bs + (end - 1) % self._bs] = stamp + end - 1
            else:
                self._flat[self._slots(blocks, end - tokens, end)] = stamp + np.arange(end - tokens, end)

    def _slots(self, blocks: list[int], first: int, end: int) -> np.ndarray:
        at = np.arange(first, end)
        return np.array(blocks)[at // self._bs] * self._bs + at % self._bs


class RealTier:
    """Both sides of the host tier that real vLLM gets, on emulated links and the simulator's clock, and the KV of a `FakeModel`."""

    def __init__(self, env: simpy.Environment, machine: Machine, model: FakeModel, wake: Callable[[], None]) -> None:
        self._env, self._wake = env, wake
        self._awaited_s = -np.inf       # a timer is set for then
        blocks, pool = machine.kv_blocks + 1, {"host_blocks": machine.host_kv_blocks}
        config = Stub(kv_transfer_config=Stub(is_kv_producer=True, kv_connector_extra_config=pool))
        self.connector, self._worker = (HostTierConnector(config, role, Stub(num_blocks=blocks)) for role in
                                        (KVConnectorRole.SCHEDULER, KVConnectorRole.WORKER))
        self.tier = HostTier(machine, emulated=True)
        self._worker.register_kv_caches({"layer": model.kv})
        self._worker.worker = HostWorker(self._worker.worker._mover, clock=lambda: env.now)

    def begin(self, out: Any) -> None:
        """As vLLM's model runner does, before its forward and, for loads, after it."""
        self._worker.handle_preemptions(out.kv_connector_metadata)
        self._worker.bind_connector_metadata(out.kv_connector_metadata)
        self._worker.start_load_kv(None)
        self._await_next()

    def over_s(self, out: Any, end_s: float) -> float:
        """When the step is over: later where what is written beside it is across later."""
        orders = out.kv_connector_metadata
        return orders.written_s if orders.write and orders.written_s > end_s + 1e-9 else end_s

    def output(self) -> KVConnectorOutput:
        self._worker.wait_for_save()
        _, loaded = self._worker.get_finished(set())
        return KVConnectorOutput(finished_recving=loaded, kv_connector_worker_meta=self._worker.build_connector_worker_meta())

    def _await_next(self) -> None:
        """An engine without a step looks again when a copy is across."""
        next_s = self.tier.next_s
        if next_s not in (self._awaited_s, np.inf):
            self._awaited_s = next_s
            self._env.timeout(max(next_s - self._env.now, 0.0)).callbacks.append(self._look)

    def _look(self, _: simpy.Event) -> None:
        self._awaited_s = -np.inf
        if self.tier.next_s > self._env.now:        # rounded
            self._await_next()
        self._wake()


class Checked:
    """Passes decisions on, after holding the scheduler's own account against vLLM's."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording

    def decided(self, engine: PlanScheduler, view: View, plan: Plan) -> None:
        held = blocks_for(view.computed_tokens, view.block_size)[HOLDS_BLOCKS[view.residency]].sum()
        held += sum(-(-request.num_computed_tokens // view.block_size) for name, request in engine.requests.items()
                    if name not in engine.named)            # aborted while they load: vLLM waits for the copy
        assert held == view.total_blocks - view.free_blocks
        for stream in engine.streams.values():
            running = stream.request.status == RequestStatus.RUNNING
            # landed; or let go on, and refused a block for that
            landed = stream.name in engine.finished_recving_kv_req_ids or (
                stream.request in engine.kv_holding_waiting and stream.request.status == RequestStatus.PREEMPTED)
            remote = stream.request.status == RequestStatus.WAITING_FOR_REMOTE_KVS
            gone, here = not running and not remote, running or landed
            assert {Residency.NONE: gone, Residency.HOST: gone, Residency.GPU: here, Residency.EVICTING: here,
                    Residency.LOADING: remote and not landed}[stream.residency]
        self.recording.decided(engine, view, plan)


def vllm_scheduler(cls: type, machine: Machine, **settings: Any) -> Any:
    cache = CacheConfig(block_size=machine.block_size, enable_prefix_caching=False)
    cache.num_gpu_blocks = machine.kv_blocks + 1        # one is vLLM's null block
    config = Stub(
        scheduler_config=SchedulerConfig(
            max_model_len=LONGEST, is_encoder_decoder=False, max_num_batched_tokens=machine.max_step_tokens,
            max_num_seqs=machine.max_seqs, enable_chunked_prefill=True, async_scheduling=False, **settings),
        cache_config=cache, parallel_config=ParallelConfig(), observability_config=ObservabilityConfig(),
        model_config=Stub(
            uses_mrope=False, is_encoder_decoder=False, max_model_len=LONGEST, runner_type="generate", is_diffusion=False,
            supports_multimodal_inputs=False, is_multimodal_model=False, return_sampling_mask=False, is_hybrid=False,
            enable_return_routed_experts=False),
        lora_config=None, kv_events_config=None, kv_transfer_config=None, ec_transfer_config=None, speculative_config=None,
        is_mm_encoder_only=False, num_speculative_tokens=0, num_lookahead_tokens=0, num_prefill_lookahead_tokens=0,
        max_in_flight_tokens=machine.max_step_tokens, max_concurrent_batches=1, use_v2_model_runner=False,
        aux_output_config=Stub(enabled=False), ec_manager_config=Stub(get_encoder_cache_manager_obj=lambda: None))
    layer = FullAttentionSpec(block_size=machine.block_size, num_kv_heads=1, head_size=1, dtype=torch.float32)
    kv = KVCacheConfig(num_blocks=machine.kv_blocks + 1, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], layer)])
    grammar = Stub(should_advance=lambda *_: False, grammar_init=lambda *_: None, accept_tokens=lambda *_: True)
    return cls(vllm_config=config, kv_cache_config=kv, structured_output_manager=grammar, block_size=machine.block_size)


class FakeEngine:
    """The loop of vLLM's engine core (schedule, run, update_from_output) as a SimPy process.

    `policy` None: vLLM's own scheduler, left alone. `links`: a machine whose links are the real ones, unknown to the policy.
    `departs`: vLLM may do otherwise than planned.
    """

    def __init__(self, load: list[Ask], policy: Policy | None, machine: Machine, links: Machine | None = None,
                 departs: bool = False, **settings: Any) -> None:
        self.env, self.load, self.machine, self.recording = simpy.Environment(), load, machine, Recording()
        self.steered, self._leaving, self._asleep = policy is not None, list[str](), None
        self.departs, self.finished = departs, dict[int, int]()     # tokens that each has said
        self.model = FakeModel(machine)
        self.host = RealTier(self.env, links or machine, self.model, self._wake)
        self.vllm: Any = vllm_scheduler(PlanScheduler if self.steered else Scheduler, machine, **settings)
        if self.steered:
            self.vllm.connector = self.host.connector
            self.vllm.steer(copy.deepcopy(policy), Beliefs(machine), self.host.tier, clock=lambda: self.env.now,
                            watch=Checked(self.recording))

    def run(self) -> Recording:
        self.env.process(self._clients())
        self.env.process(self._gpu())
        self.env.run()
        assert not self.vllm.requests, f"stuck at {self.env.now:.3f} s with {len(self.vllm.requests)} requests unfinished"
        assert self.vllm.kv_cache_manager.block_pool.get_num_free_blocks() == self.machine.kv_blocks
        if self.steered:
            assert self.host.tier.pool.free_blocks == self.machine.host_kv_blocks
            assert self.departs or (self.vllm.departures, self.vllm.fallbacks) == (0, 0)
            assert (self.vllm.streams, self.vllm.named, self.vllm.orphans) == ({}, {}, set())
        return self.recording

    def _wake(self) -> None:
        if self._asleep is not None:
            asleep, self._asleep = self._asleep, None
            asleep.succeed()

    def _clients(self) -> Generator[simpy.Event, Any, None]:
        for id, ask in enumerate(self.load):
            if ask.arrival_s > self.env.now:
                yield self.env.timeout(ask.arrival_s - self.env.now)
            reader = {name: value for name, value in ask._asdict().items() if name in
                      ("consumption_rate", "priority", "ttft_slo_s", "tpot_slo_s", "reader") and value == value}
            if ask.rate_changes:
                reader["consumption_rate"] = str(Pace(ask.consumption_rate, ask.rate_changes))
            self.vllm.add_request(Request(
                request_id=str(id), prompt_token_ids=[1] * ask.prompt_tokens, pooling_params=None, arrival_time=self.env.now,
                sampling_params=SamplingParams(max_tokens=ask.output_tokens, ignore_eos=True, stop_token_ids=[STOP],
                                               extra_args=reader)))
            self._wake()
            if ask.gives_up_s < np.inf:
                self.env.timeout(ask.gives_up_s).callbacks.append(partial(self._give_up, str(id)))

    def _give_up(self, name: str, _: simpy.Event) -> None:
        """vLLM's engine core takes what clients say between two steps."""
        self._leaving.append(name)
        self._wake()

    def _gpu(self) -> Generator[simpy.Event, Any, None]:
        env, vllm = self.env, self.vllm
        while True:
            yield from self._drain()
            vllm.finish_requests(self._leaving, RequestStatus.FINISHED_ABORTED)
            self._leaving = []
            out = vllm.schedule()
            end_s = env.now + self._step_s(out.num_scheduled_tokens)
            if self.steered:
                self.host.begin(out)
                end_s = self.host.over_s(out, end_s)
            self.model.run(out.num_scheduled_tokens, vllm)
            if out.num_scheduled_tokens:
                yield env.timeout(end_s - env.now)
                self.recording.step(env.now, {int(id): tokens for id, tokens in out.num_scheduled_tokens.items()},
                                    () if self.steered else tuple(map(int, out.preempted_req_ids or ())))
            else:
                yield env.timeout(1e-3) if self.departs and vllm.requests else self._sleep()    # vLLM looks again and again
            yield from self._drain()            # a copy that ends with the step is reported with it
            vllm.update_from_output(out, self._output(out.num_scheduled_tokens))

    def _drain(self) -> Generator[simpy.Event, Any, None]:
        while self.env.peek() <= self.env.now:
            yield self.env.timeout(0)

    def _sleep(self) -> simpy.Event:
        self._asleep = self.env.event()
        wake_at_s = self.vllm.plan.wake_at_s if self.steered else np.inf
        return self._asleep if wake_at_s == np.inf else self._asleep | self.env.timeout(max(wake_at_s - self.env.now, 0.0))

    def _step_s(self, batch: dict[str, int]) -> float:
        """What a plan calls a prefill is one; vLLM itself, left alone, decodes who was on the GPU with one token left."""
        kv, pairs, plan = 0, 0.0, {stream.name for stream, _ in self.vllm.prefill} if self.steered else set()
        for id, tokens in batch.items():
            request = self.vllm.requests[id]
            before = request.num_computed_tokens - tokens
            if before and request.num_tokens - before == 1 and id not in plan:
                kv += before
            else:
                pairs += tokens * (before + tokens / 2)
        return self.machine.latency.step_s(sum(batch.values()), float(kv), pairs, len(batch))

    def _says(self, request: Request) -> int:
        self.finished[int(request.request_id)] = request.num_output_tokens + 1
        return STOP if request.num_output_tokens + 1 == self.load[int(request.request_id)].stops_after else 7

    def _output(self, batch: dict[str, int]) -> ModelRunnerOutput:
        requests = self.vllm.requests
        says = [[self._says(requests[id])] if requests[id].num_computed_tokens == requests[id].num_tokens else [] for id in batch]
        return ModelRunnerOutput(req_ids=list(batch), req_id_to_index={id: i for i, id in enumerate(batch)}, sampled_token_ids=says,
                                 logprobs=None, prompt_logprobs_dict={}, pooler_output=[],
                                 kv_connector_output=self.host.output() if self.steered else None)
