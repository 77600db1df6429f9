"""Carries a policy's standing plans out in vLLM 0.32.0's own scheduler. The only module that touches vLLM's internals.

vLLM's schedule() still allocates blocks, builds the batch and talks to the workers. A plan reaches it in four places:

- `_reserve_prefill_lookahead` gives every request its tokens of this step (0: it keeps its blocks and pauses);
- `waiting` holds, while vLLM schedules, only who begins to prefill or to load in this step, in the plan's order;
- `_handle_blocked_waiting_request` holds back those whose KV has landed and who do not run now;
- `_preempt_request` frees the blocks of those who leave the GPU.

What ends a plan and who joins its decoders is said in `policies.api`; `sim.engine` does the same to the model machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

from vllm.logger import init_logger
from vllm.v1.core.sched.request_queue import create_request_queue
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

from policies.api import CostModel, Event, Ints, Plan, Policy, Residency, View, check_plan
from sim.beliefs import Beliefs
from sim.counters import Counters
from sim.errors import FAULTS

from .arrivals import Arrivals
from .departures import left_waiting, take_as_it_is
from .fallback import FirstComeFirstServed
from .host_tier import HostTier
from .metrics import Snapshots
from .requirements import refuse_what_bends_plans
from .room import steps_that_fit
from .steering import Steering
from .stream import Stream, deliver
from .view import view_of

logger = init_logger(f"vllm.{__name__}")      # in the format of the server's log

_PATIENCE = 10_000      # decisions in a row that run nobody: the policy will never go on


class Watch(Protocol):
    """Sees every decision, and changes nothing."""

    def decided(self, engine: Any, view: View, plan: Plan) -> None: ...


class PlanScheduler(Scheduler):  # type: ignore[misc]
    """vLLM's scheduler under a policy's orders, which `additional_config` names, or `steer` before the first step.

    vLLM's engine core calls schedule() and update_from_output() in turn, one step in flight.
    """

    waiting: Any        # vLLM's queue of requests without KV on the GPU

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        refuse_what_bends_plans(self)
        self.scheduler_reserve_full_isl = False             # check_plan has counted the blocks: vLLM holds nothing back
        self.scheduler_config.long_prefill_token_threshold = 0
        self.streams: dict[int, Stream] = {}                # in order of arrival
        self.named: dict[str, Stream] = {}
        self.left: set[str] = set()                         # who has left the GPU by a plan since the last step
        self.orphans: set[str] = set()                      # aborted while their KV came back
        self.arrivals = Arrivals(super()._handle_blocked_waiting_request)
        self.count = Counters()
        self.plan, self.happened, self.steps_to_wake, self.chunk_unfinished = Plan(), 0, 0, False
        self.decoding: list[Stream] = []
        self.prefill: list[tuple[Stream, int]] = []         # of the plan, until the step that does it is over
        self.loading: list[Stream] = []                     # begin to load in the coming step, in this order
        self.storing: list[Stream] = []
        self.writing: list[tuple[Stream, int]] = []         # of these, in the step under way: who has so many tokens copied then
        self.tokens: dict[str, int] = {}                    # what each request computes in this step
        self.steady = False                                 # the same as in the step before
        self.fit = 0                                        # decode steps for which there are surely blocks
        self.none_full = 0                                  # so many steps begin before a block to write through is full
        self.least_step_s = 0.0                             # no step of this batch is believed to be shorter
        self.nobody_waits = create_request_queue(self.policy)
        (layers,) = self.kv_cache_manager.coordinator.single_type_managers
        self.block_tables = layers.req_to_blocks            # vLLM's own, by request
        self.step_began_s = 0.0
        self.steps = self.departures = self.fallbacks = 0
        self.idle_decisions = 0                             # in a row, of plans that ran nobody
        steering = Steering.of(self.vllm_config)
        if steering:
            machine = steering.machine(self.vllm_config, self.kv_cache_config)
            self.steer(steering.planner(), Beliefs(machine), HostTier(machine, steering.emulated))

    def steer(self, planner: Policy, cost: CostModel, host: HostTier, *, clock: Callable[[], float] = time.monotonic,
              watch: Watch | None = None) -> None:
        """`host` has no blocks where there is no `HostTierConnector`."""
        self.planner, self.cost, self.clock, self.watch, self.host = planner, cost, clock, watch, host
        connector = self.connector
        if connector is not None:
            connector.tier, connector.snapshots = host, Snapshots(self)

    def fidelity(self) -> dict[str, float]:
        """How far the plans were carried out: the share of steps that were exactly as planned, and how often not."""
        share = 1.0 - self.departures / self.steps if self.steps else 1.0
        return {"plan_fidelity": share, "departures": self.departures, "fallbacks": self.fallbacks}

    # ---- what vLLM asks while it schedules

    def _reserve_prefill_lookahead(self, request: Any, num_computed_tokens: int, num_new_tokens: int) -> int:
        planned = self.tokens.get(request.request_id, 0)
        return planned if planned < num_new_tokens else num_new_tokens

    def _handle_blocked_waiting_request(self, request: Any) -> bool:
        stream = self.named[request.request_id]
        wanted = stream.name in self.tokens or stream in self.loading
        return wanted and bool(super()._handle_blocked_waiting_request(request))

    def _inflight_prefill_reserved_blocks(self) -> int:
        return 0                                            # a load need not leave room for prefills: check_plan has counted

    # ---- what vLLM's engine core calls

    def add_request(self, request: Any) -> None:
        super().add_request(request)
        if not self.arrivals.compiles(request):
            self._arrive(request)

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        aborted = super().finish_requests(request_ids, finished_status)
        gone = [self.named[request.request_id] for request in aborted if request.request_id in self.named]
        self.orphans |= {stream.name for stream in gone if stream.residency == Residency.LOADING}
        if any(stream.residency == Residency.EVICTING for stream in gone):      # its copy may be across, and not taken yet
            self.happened |= Event.EVICTED
        self._remove(gone)
        return aborted

    def schedule(self, throttle_prefills: bool = False) -> Any:
        now_s = self.clock()
        self._take_copies(now_s)
        for request in self.arrivals.compiled() if self.arrivals.compiling else ():
            self._arrive(request)
        if not self._plan_stands(now_s):
            self._decide(now_s)
        if not (self.decoding or self.prefill or self.loading) and self.streams and self._waits_for_nothing():
            self._fall_back("it runs nobody, and waits for nothing")
            self._decide(now_s)
        begin: list[Stream] = []
        if not self.steady:
            self.tokens = {stream.name: 1 for stream in self.decoding} | {stream.name: tokens for stream, tokens in self.prefill}
            begin = [*self.loading, *(stream for stream, _ in self.prefill if stream.residency == Residency.NONE)]
        self.writing = self._write_through() if self.storing and self.tokens else []
        out = self._scheduled(begin)
        self.step_began_s = now_s
        if self.tokens:
            self.steps, self.idle_decisions = self.steps + 1, 0
        self.fit -= 1
        if out.num_scheduled_tokens != self.tokens or (begin and left_waiting(begin)):
            take_as_it_is(self, out)
        for stream in begin[len(self.loading):]:
            if stream.request.status == RequestStatus.RUNNING:
                stream.move(Residency.GPU, now_s)
        self.steady = not begin and not self.prefill
        self.loading = []
        self.left.clear()
        return out

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        known = len(self.requests)
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        if scheduler_output.num_scheduled_tokens:
            self._ran(self._speakers(model_runner_output))
            if len(self.requests) < known:
                self._remove([stream for stream in self.streams.values() if stream.request.is_finished()])
        return outputs

    # ---- between two steps

    def _arrive(self, request: Any) -> None:
        request.skip_reading_prefix_cache = False           # there is none, and vLLM would not load whom it concerns
        stream = self.arrivals.stream(request, self.clock())
        self.streams[stream.id] = self.named[stream.name] = stream
        self.happened |= Event.ARRIVAL

    def _take_copies(self, now_s: float) -> None:
        """Who has left the GPU, and who has landed: with one token left, it joins the decoders of the standing plan."""
        for name, when_s in self.host.begin(now_s):
            stream = self.named.get(name)
            if stream is None:                              # aborted meanwhile; a load has kept its blocks until now
                self.happened |= Event.LANDED * (name in self.orphans)
                self.orphans.discard(name)
                continue
            if stream.residency == Residency.EVICTING:
                stream.host_tokens = float(stream.computed_tokens)
                self._leave_gpu(stream, Residency.HOST, when_s)
                self.happened |= Event.EVICTED
            elif stream.residency == Residency.LOADING:
                stream.move(Residency.GPU, when_s)
                if stream.remaining_tokens == 1:
                    self.decoding.append(stream)
                    self.batch_changes()
                self.happened |= Event.LANDED

    def batch_changes(self) -> None:
        self.steady, self.fit, self.none_full, self.least_step_s = False, 0, 0, 0.0

    def _plan_stands(self, now_s: float) -> bool:
        plan = self.plan
        if self.happened & plan.until or self.chunk_unfinished or now_s >= plan.wake_at_s:
            return False
        if plan.wake_after_steps and self.steps_to_wake <= 0:
            return False
        if self.fit <= 0:
            self.fit = steps_that_fit(self.decoding, self.storing, self.gpu_blocks_free(),
                                      self.host_blocks_free() if self.storing else 0, self.block_size)
        return self.fit > 0

    def _decide(self, now_s: float) -> None:
        self.happened = 0
        self.batch_changes()
        if not self.streams:
            self.plan = Plan()
            return
        self.count.decisions += 1
        self.idle_decisions += 1
        self.storing = []                                   # the old order holds no host blocks in the view
        view = self.view(now_s)
        plan = self._legal_plan(view)
        if self.watch:
            self.watch.decided(self, view, plan)
        self.plan, self.steps_to_wake, self.chunk_unfinished = plan, plan.wake_after_steps, False
        self._apply(plan, now_s)

    def _legal_plan(self, view: View) -> Plan:
        """A policy that fails is not asked again: whoever is here, and whoever comes, is served in order of arrival."""
        try:
            plan = self.planner.plan(view)
            check_plan(view, plan)
        except FAULTS as error:
            self._fall_back(f"{type(error).__name__}: {error}")
            return self._legal_plan(view)
        return plan

    def _waits_for_nothing(self) -> bool:
        """Nobody runs, as the plan has it: whether nothing that is under way changes that, or time and again nothing has."""
        moving = self.orphans or any(stream.residency > Residency.HOST for stream in self.streams.values())
        return not moving and (self.plan.wake_at_s == inf or self.idle_decisions > _PATIENCE)

    def _fall_back(self, why: str) -> None:
        if isinstance(self.planner, FirstComeFirstServed):
            raise RuntimeError(f"first come first served failed: {why}")
        logger.error("policy %s failed, serving first come first served from now on: %.400s", type(self.planner).__name__, why)
        self.fallbacks += 1
        self.planner = FirstComeFirstServed()

    def view(self, now_s: float) -> View:
        return view_of(self, now_s)

    def gpu_blocks_free(self) -> int:
        free: int = self.kv_cache_manager.block_pool.get_num_free_blocks()
        return free

    def host_blocks_free(self) -> int:
        bs, stored = self.block_size, {stream.id for stream in self.storing}
        return self.host.total_blocks - sum(stream.host_blocks(bs, stream.id in stored) for stream in self.streams.values())

    # ---- what a plan changes at once

    def _apply(self, plan: Plan, now_s: float) -> None:
        for stream in self._streams(plan.forget):
            self.give_up_copy(stream)
            self.count.forgets += 1
        for stream in self._streams(plan.drop):
            self._drop(stream, now_s)
        for stream in self._streams(plan.offload):
            self._offload(stream, now_s)
        self.decoding = self._streams(plan.decode)
        self.prefill = [(self.streams[int(id)], int(tokens)) for id, tokens in plan.prefill]
        self.storing = self._streams(plan.store)
        self.loading = self._streams(plan.load)
        for stream in self.loading:
            self.host.load(stream.name, stream.computed_tokens)
            stream.move(Residency.LOADING, now_s)
        self.count.loads += len(self.loading)

    def _streams(self, ids: Ints) -> list[Stream]:
        return [self.streams[int(id)] for id in ids]

    def _drop(self, stream: Stream, now_s: float) -> None:
        self.count.lost_tokens += stream.computed_tokens
        if stream.residency == Residency.HOST:
            stream.move(Residency.NONE, now_s)
            self.count.copies_given_up += 1
        else:
            self._leave_gpu(stream, Residency.NONE, now_s)
            self.count.drops += 1
        self.give_up_copy(stream)

    def _offload(self, stream: Stream, now_s: float) -> None:
        """Frees the blocks now if all of them have a copy, else when they have: vLLM frees a request's blocks as a whole."""
        self.count.offloads += 1
        if stream.host_tokens >= stream.computed_tokens:
            self._leave_gpu(stream, Residency.HOST, now_s)
        else:
            first, computed = int(stream.host_tokens) // self.block_size, stream.computed_tokens
            self.count.unwritten_tokens += computed - stream.host_tokens
            self.host.evict(stream.name, first, self._gpu_blocks(stream, first, -(-computed // self.block_size)))
            stream.move(Residency.EVICTING, now_s)

    def _gpu_blocks(self, stream: Stream, first: int, end: int) -> list[int]:
        """Blocks `first` to `end` - 1 of its KV."""
        return [block.block_id for block in self.block_tables[stream.name][first:end]]

    def give_up_copy(self, stream: Stream) -> None:
        stream.host_tokens = 0.0
        self.host.forget(stream.name)

    def _leave_gpu(self, stream: Stream, to: int, when_s: float) -> None:
        request = stream.request
        if request.status == RequestStatus.RUNNING:
            self.running.remove(request)
        else:                                               # it landed and has not run since
            self.kv_holding_waiting.remove_request(request)
            self.deferred_waiting.discard(request)
            self.finished_recving_kv_req_ids.discard(stream.name)
            request.status = RequestStatus.RUNNING          # as _preempt_request wants it
        self.left.add(stream.name)
        self._preempt_request(request, time.monotonic())    # vLLM's own statistics keep its own clock
        stream.move(to, when_s)

    # ---- around vLLM's schedule()

    def _scheduled(self, begin: list[Stream]) -> Any:
        """vLLM's own schedule(), to which only those wait who begin now; whom it leaves waiting goes back to the others.

        It starts no load once the step's tokens are spent: it is lent one, which the plan's own numbers keep anyone from using.
        """
        everyone, lends = self.waiting, bool(self.loading)
        self.waiting = create_request_queue(self.policy) if begin else self.nobody_waits
        for stream in begin:
            everyone.remove_request(stream.request)
            self.waiting.add_request(stream.request)
        if lends:
            self._lend(1)
        try:
            return super().schedule()                       # whether prefills are throttled is the plan's affair
        finally:
            if lends:
                self._lend(-1)
            left, self.waiting = self.waiting, everyone
            if left:                                        # or whom it has preempted
                everyone.prepend_requests(left)
                self.nobody_waits = create_request_queue(self.policy)

    def _lend(self, tokens: int) -> None:
        self.max_num_scheduled_tokens += tokens
        self.scheduler_config.max_num_batched_tokens += tokens

    def _write_through(self) -> list[tuple[Stream, int]]:
        """Full blocks that the coming step hides, in the plan's order; those who have that many tokens copied after it."""
        if self.none_full > 0:
            self.none_full -= 1
            return []
        bs, full, waiting, least = self.block_size, [], 0, self.block_size
        for stream in self.storing:
            computed = stream.request.num_computed_tokens
            first, end = int(stream.host_tokens) // bs, computed // bs
            if first < end:
                full.append((stream, first, end))
                waiting += end - first
            elif (missing := bs - computed % bs) < least:
                least = missing
        if not full:
            self.none_full = least - 1
            return []
        room = self.host.hidden_blocks(self.least_step_s)
        if room < waiting:
            self.least_step_s = self._believed_s()          # no step of this batch was longer
            room = self.host.hidden_blocks(self.least_step_s)
        writing = []
        for stream, first, end in full:
            if end - first > room:
                end = first + int(room)
            if first < end:
                self.host.write(stream.name, first, self._gpu_blocks(stream, first, end))
                writing.append((stream, end * bs))
                room -= end - first
        return writing

    def _believed_s(self) -> float:
        """What the policy believes the coming step takes."""
        kv = sum([stream.request.num_computed_tokens for stream in self.decoding])
        pairs = sum([tokens * (stream.computed_tokens + tokens / 2) for stream, tokens in self.prefill])
        return self.cost.step_s(sum(self.tokens.values()), float(kv), float(pairs), len(self.tokens))

    # ---- after a step

    def _speakers(self, output: Any) -> list[Stream]:
        """Who has said a token, of those who were not aborted during the step."""
        said, row = output.sampled_token_ids, output.req_id_to_index
        if not self.prefill and all(said):
            return self.decoding
        ran = [*self.decoding, *(stream for stream, _ in self.prefill if stream.id in self.streams)]
        return [stream for stream in ran if said[row[stream.name]]]

    def _ran(self, speakers: list[Stream]) -> None:
        now_s = self.clock()
        for stream, tokens in self.writing:
            stream.host_tokens = float(tokens)
        deliver(speakers, now_s)
        self._count(now_s - self.step_began_s)
        if self.prefill:
            complete = [stream for stream, _ in self.prefill if stream in speakers]
            self.chunk_unfinished |= len(complete) < len(self.prefill)
            self.decoding += complete
            self.prefill = []
            self.happened |= Event.PREFILLED
            self.batch_changes()

    def _count(self, took_s: float) -> None:
        count = self.count
        self.steps_to_wake -= 1
        count.decode_tokens += len(self.decoding)
        if self.prefill:
            count.prefill_steps += 1
            count.prefill_s += took_s
            count.prefill_tokens += sum(tokens for _, tokens in self.prefill)
            count.recomputed_tokens += sum(tokens for stream, tokens in self.prefill if stream.request.num_preemptions)
        else:
            count.decode_steps += 1
            count.decode_s += took_s

    def _remove(self, over: list[Stream]) -> None:
        over = [stream for stream in over if stream.id in self.streams]
        for stream in over:
            self.host.forget(stream.name)
            del self.streams[stream.id], self.named[stream.name]
        if over:
            self.decoding = [stream for stream in self.decoding if stream.id in self.streams]
            self.storing = [stream for stream in self.storing if stream.id in self.streams]
            self.happened |= Event.FINISH
            self.batch_changes()
