"""The main loop: ask the policy, run steps on the GPU, deliver tokens.

At one instant everything else goes first and the decision last. Between decisions a plan stands, and the decode steps up to
the next thing that can happen are one SimPy event: a *run*. A run may end for any reason; only the plan says when the policy
is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

import numpy as np
import simpy

from policies.api import NOBODY, Event, Floats, Ints, InvalidPlan, Plan, Policy, Residency, View, check_plan, decode_steps_that_fit

from . import token_buffer
from .beliefs import Beliefs
from .counters import Counters
from .errors import PolicyError, Wedged
from .kv_cache import KVCache
from .link import Link
from .machine import Machine
from .requests import Requests
from .step_clock import StepClock
from .write_through import WriteThrough

_PATIENCE = 10_000      # decisions in a row without a step: the policy will never go on


class Watch(Protocol):
    """Sees what the engine decides and does, and changes nothing."""

    def decided(self, engine: Engine, view: View, plan: Plan) -> None: ...

    def ran(self, engine: Engine, run: Run) -> None: ...


@dataclass(slots=True)
class Run:
    """Consecutive steps of one batch."""

    start_s: float
    ends_s: Floats          #: of each step
    rows: Ints              #: who computes
    tokens: Ints | int      #: how much each computes in each step
    speakers: Ints          #: rows that put out one token in each step
    unwritten: Floats | None = None     #: tokens without a copy afterwards, of those written through, in their order


class Engine:
    """One GPU, its two links, its requests. `finished` is called with rows whose last token is out, before they go."""

    def __init__(self, env: simpy.Environment, machine: Machine, policy: Policy, *, step_by_step: bool = False,
                 watch: Watch | None = None, finished: Callable[[Ints, float], None] | None = None, stop_s: float = inf) -> None:
        self.env, self.machine, self.policy, self.step_by_step, self.watch = env, machine, policy, step_by_step, watch
        self.stop_s = stop_s                        # the simulation ends then: no run may hide tokens delivered before
        self.requests, self.clock, self.count = Requests(), StepClock(), Counters()
        self.kv = KVCache(machine, self.requests)
        self.h2d = Link(env, machine.block_copy_s(machine.h2d_bytes_per_s))
        self.d2h = Link(env, machine.block_copy_s(machine.d2h_bytes_per_s))
        self.write_through = WriteThrough(machine, self.d2h)
        self.beliefs = Beliefs(machine)
        self.plan, self.happened, self.steps_to_wake = Plan(), 0, 0
        self.prefill: tuple[tuple[int, int], ...] = ()      # of the plan, until it is done
        self.chunk_unfinished = False               # ends the plan
        self.decoding: Ints = NOBODY                # rows, ascending
        self.storing: Ints = NOBODY                 # rows, in the order of the plan
        self.landed: list[int] = []                 # ids that join the decoders at the next step
        self.loading = self.evicting = 0
        self._finished = finished
        self._asleep: simpy.Event | None = None
        self._idle_decisions = 0
        env.process(self._loop())

    # ---- the loop

    def _loop(self) -> Generator[simpy.Event, Any, None]:
        env = self.env
        while True:
            while env.peek() <= env.now:
                yield env.timeout(0)
            if self.landed:
                self._join_landed()
            if not self._plan_stands():
                self._decide()
            run = self._next_run()
            if run is None:
                yield self._sleep()
            else:
                yield env.timeout(run.ends_s[-1] - env.now)
                self._complete(run)

    def note(self, event: int) -> None:
        """Something happened: it may end the plan, and it wakes an idle engine."""
        self.happened |= event
        if self._asleep is not None:
            asleep, self._asleep = self._asleep, None
            asleep.succeed()

    def _plan_stands(self) -> bool:
        plan = self.plan
        if self.happened & plan.until or self.chunk_unfinished or self.env.now >= plan.wake_at_s:
            return False
        if plan.wake_after_steps and self.steps_to_wake <= 0:
            return False
        return not len(self.decoding) or self._steps_that_fit() > 0

    def _steps_that_fit(self) -> int:
        q, bs = self.requests, self.machine.block_size
        steps = self.kv.free // max(len(self.decoding), 1) * bs     # in block_size steps each request takes exactly one block
        if not steps:
            steps = decode_steps_that_fit(q.computed_tokens[self.decoding], self.kv.free, bs)
        if len(self.storing) > self.kv.host_free:
            growing = self.storing[q.joined[self.storing] >= 0]
            if len(growing):
                steps = min(steps, decode_steps_that_fit(q.computed_tokens[growing], self.kv.host_free, bs))
        elif len(self.storing):
            steps = min(steps, self.kv.host_free // len(self.storing) * bs)
        return steps

    def _sleep(self) -> simpy.Event:
        self._asleep = self.env.event()
        if self.plan.wake_at_s == inf:
            return self._asleep
        return self._asleep | self.env.timeout(max(self.plan.wake_at_s - self.env.now, 0.0))

    # ---- deciding

    def view(self) -> View:
        q, m, kv, count = self.requests, self.machine, self.kv, self.count
        (id, prompt, output, most, computed, residency, preemptions, reader, *_), floats = q.frozen()
        arrival_s, host, rate, read_until_s, moved_s, priority, ttft_slo_s, tpot_slo_s, *_ = floats
        return View(self.env.now, id, arrival_s, prompt, output, most, computed, host, residency, rate, read_until_s, preemptions,
                    moved_s, priority, ttft_slo_s, tpot_slo_s, reader, kv.free, kv.total, kv.host_free, kv.host_total, m.block_size,
                    m.max_seqs, m.max_step_tokens, self.h2d.free_s, self.d2h.free_s, count.decode_steps, count.prefill_steps,
                    count.decode_tokens, count.prefill_tokens, count.decode_s, count.prefill_s, self.beliefs)

    def _decide(self) -> None:
        self.happened = 0
        q = self.requests
        if not q.n:
            self.plan = Plan()
            return
        self.count.decisions += 1
        self._idle_decisions += 1
        if self._idle_decisions > _PATIENCE:
            raise Wedged.at(self.policy, self.env.now, q.n, f"{_PATIENCE} decisions in a row ran no step")
        if len(self.storing):
            self.storing = NOBODY
            self.kv.recount_host()
        view = self.view()
        try:
            plan = self.policy.plan(view)
        except Exception as error:
            raise PolicyError.raised(self.policy, self.env.now, error) from error
        if not isinstance(plan, Plan):
            raise PolicyError.at(self.policy, self.env.now, f"plan() returned {type(plan).__name__}, not a Plan")
        try:
            check_plan(view, plan)
        except InvalidPlan as error:
            raise PolicyError.at(self.policy, self.env.now, str(error)) from error
        except Exception as error:
            raise PolicyError.at(self.policy, self.env.now, f"malformed plan: {type(error).__name__}: {error}") from error
        if self.watch:
            self.watch.decided(self, view, plan)
        self.plan, self.prefill, self.steps_to_wake, self.chunk_unfinished = plan, plan.prefill, plan.wake_after_steps, False
        self._apply(plan)

    def _apply(self, plan: Plan) -> None:
        q = self.requests
        for id in plan.forget:
            q.host_tokens[q.row(id)] = 0.0
        for id in plan.drop:
            self._drop(q.row(id))
        self.count.forgets += len(plan.forget)
        decoding = q.rows(plan.decode)
        if len(decoding) != len(self.decoding) or np.count_nonzero(decoding != self.decoding):
            self._change_decoders(decoding)
        for id in plan.offload:
            self._offload(q.row(id))
        for id in plan.load:
            self._load(q.row(id))
        if len(plan.store) or len(plan.offload) or len(plan.forget) or len(plan.drop):
            self.storing = q.rows(plan.store)
            stored = np.zeros(q.n, np.bool_)
            stored[self.storing] = True
            self.kv.recount_host(stored)

    def _change_decoders(self, decoding: Ints) -> None:
        q = self.requests
        speaks = np.zeros(q.n, np.bool_)
        speaks[decoding] = True
        spoke = q.joined[: q.n] >= 0
        left, came = (spoke & ~speaks).nonzero()[0], (speaks & ~spoke).nonzero()[0]
        if len(left):
            self.clock.leave(q, left)
        if len(came):
            self.clock.join(q, came)
        self.decoding = decoding

    def _join_landed(self) -> None:
        q = self.requests
        rows = q.rows(np.array(self.landed, np.int64))
        self.landed.clear()
        rows = rows[(q.prompt_tokens[rows] + q.output_tokens[rows] - q.computed_tokens[rows] == 1) & (q.joined[rows] < 0)]
        self.clock.join(q, rows)
        self.decoding = np.sort(np.concatenate((self.decoding, rows)))

    # ---- moving KV

    def _drop(self, row: int) -> None:
        q = self.requests
        self.count.lost_tokens += int(q.computed_tokens[row])
        if q.residency[row] == Residency.HOST:
            self.count.copies_given_up += 1
            q.residency[row], q.moved_s[row] = Residency.NONE, self.env.now
        else:
            self.count.drops += 1
            self._leave_gpu(row, Residency.NONE)
        q.computed_tokens[row], q.host_tokens[row] = 0, 0.0

    def _leave_gpu(self, row: int, to: int) -> None:
        q = self.requests
        self.kv.unseat(row)
        q.residency[row], q.moved_s[row] = to, self.env.now
        q.preemptions[row] += 1

    def _offload(self, row: int) -> None:
        q = self.requests
        self.count.offloads += 1
        unwritten = float(q.computed_tokens[row] - q.host_tokens[row])
        if unwritten <= 0:
            return self._leave_gpu(row, Residency.HOST)
        self.count.unwritten_tokens += unwritten
        self.count.overlaps += self.loading > 0
        self.evicting += 1
        q.residency[row], q.moved_s[row], id = Residency.EVICTING, self.env.now, int(q.id[row])

        def evicted() -> None:
            row = q.row(id)
            q.host_tokens[row] = q.computed_tokens[row]
            self._leave_gpu(row, Residency.HOST)
            self.evicting -= 1
            self.note(Event.EVICTED)
        self.d2h.copy(self.kv.unwritten_blocks(row), evicted)

    def _load(self, row: int) -> None:
        q = self.requests
        self.count.loads += 1
        self.count.overlaps += self.evicting > 0
        self.loading += 1
        self.kv.seat(row)
        q.residency[row], q.moved_s[row], id = Residency.LOADING, self.env.now, int(q.id[row])

        def landed() -> None:
            row = q.row(id)
            q.residency[row], q.moved_s[row] = Residency.GPU, self.env.now
            self.loading -= 1
            self.landed.append(id)
            self.note(Event.LANDED)
        self.h2d.copy(self.kv.blocks(row), landed)

    # ---- running

    def _next_run(self) -> Run | None:
        if self.prefill:
            run = self._prefill_run()
        elif len(self.decoding):
            run = self._decode_run()
        else:
            return None
        self._idle_decisions = 0
        self.count.runs += 1
        if len(self.storing):
            self._write_through(run)
        return run

    def _decode_run(self) -> Run:
        """As many decode steps as nothing can interrupt: they end with the first that ends at or after the next event."""
        q, rows, latency, now = self.requests, self.decoding, self.machine.latency, self.env.now
        kv, seqs = float(q.computed_tokens[rows].sum()), len(rows)
        most = 1 if self.step_by_step else self._most_steps()
        horizon_s = min(self.env.peek(), self.plan.wake_at_s)
        if most > 1:
            step_s = latency.step_s(seqs, kv, 0.0, seqs)
            if horizon_s - now < most * step_s:             # steps never get shorter: no more than these are needed
                most = int((horizon_s - now) / step_s) + 1
        ends = latency.decode_ends_s(now, seqs, kv, most)
        if ends[-1] > horizon_s:
            ends = ends[: int(ends.searchsorted(horizon_s)) + 1]
        if ends[-1] > self.stop_s and len(ends) > 1:
            ends = ends[: max(int(ends.searchsorted(self.stop_s)), 1)]
        return Run(now, ends, rows, 1, rows)

    def _most_steps(self) -> int:
        """Decode steps until the first request finishes, blocks run out, or the plan wants to be asked."""
        q, rows = self.requests, self.decoding
        most = min(self._steps_that_fit(), int((q.final_tokens[rows] - q.output_tokens[rows]).min()))
        if self.plan.wake_after_steps:
            most = min(most, self.steps_to_wake)
        if len(self.storing) and not self.write_through.exact:
            most = 1
        return most

    def _prefill_run(self) -> Run:
        q, latency, decoding = self.requests, self.machine.latency, self.decoding
        ids, chunk = np.array(self.prefill, np.int64).T
        rows = q.rows(ids)
        before = q.computed_tokens[rows]
        fresh = rows[q.residency[rows] != Residency.GPU]
        q.residency[fresh], q.moved_s[fresh] = Residency.GPU, self.env.now
        pairs = float((chunk * (before + chunk / 2)).sum())
        end_s = self.env.now + latency.step_s(len(decoding) + int(chunk.sum()), float(q.computed_tokens[decoding].sum()), pairs,
                                              len(decoding) + len(rows))
        whole = before + chunk == q.prompt_tokens[rows] + q.output_tokens[rows]
        tokens = np.concatenate((np.ones(len(decoding), np.int64), chunk))
        speakers = np.concatenate((decoding, rows[whole]))
        return Run(self.env.now, np.array([end_s]), np.concatenate((decoding, rows)), tokens, speakers)

    def _write_through(self, run: Run) -> None:
        q, order = self.requests, self.storing
        made = np.zeros(q.n)
        made[run.rows] = run.tokens
        unwritten = q.computed_tokens[order] - q.host_tokens[order]
        believed = run.ends_s
        if not self.write_through.exact:
            run.ends_s = np.array([self.write_through.outlasting(run.start_s, float(believed[0]), float(unwritten.sum()))])
        run.unwritten = self.write_through.write(run.start_s, believed, unwritten, made[order])

    def _complete(self, run: Run) -> None:
        q, steps, speakers = self.requests, len(run.ends_s), run.speakers
        if self.watch:
            self.watch.ran(self, run)
        before = q.computed_tokens[run.rows]
        after = before + run.tokens * steps
        q.computed_tokens[run.rows] = after
        self.kv.compute(before, after)
        if run.unwritten is not None:
            self._account_writes(run, run.unwritten, before, after)
        output = q.output_tokens[speakers]
        if np.count_nonzero(output) < len(output):
            q.first_s[speakers[output == 0]] = run.ends_s[0]
        output += steps
        q.output_tokens[speakers] = output
        q.read_until_s[speakers] = token_buffer.deliver(q.read_until_s[speakers], q.consumption_rate[speakers],
                                                        float(run.ends_s[0]), float(run.ends_s[-1]), steps)
        if len(self.decoding):
            self.clock.tick(run.ends_s)
        self._count(run, before)
        if self.prefill:
            self._prefilled(run)
        over = speakers[q.final_tokens[speakers] == output]
        if len(over):
            self._finish(over, float(run.ends_s[-1]))

    def _account_writes(self, run: Run, unwritten: Floats, before: Ints, after: Ints) -> None:
        q, bs = self.requests, self.machine.block_size
        q.host_tokens[self.storing] = q.computed_tokens[self.storing] - unwritten
        grown = np.zeros(q.n, np.int64)
        grown[run.rows] = -(-after // bs) - -(-before // bs)
        self.kv.host_free -= int(grown[self.storing].sum())

    def _count(self, run: Run, before: Ints) -> None:
        count, steps = self.count, len(run.ends_s)
        took_s = float(run.ends_s[-1]) - run.start_s
        count.decode_tokens += steps * len(self.decoding)
        self.steps_to_wake -= steps
        if self.prefill:
            count.prefill_steps += 1
            count.prefill_s += took_s
            done = run.rows[len(self.decoding):]
            chunk = self.requests.computed_tokens[done] - before[len(self.decoding):]
            count.prefill_tokens += int(chunk.sum())
            again = self.requests.preemptions[done] > 0
            count.recomputed_tokens += int(chunk[again].sum())
        else:
            count.decode_steps += steps
            count.decode_s += took_s

    def _prefilled(self, run: Run) -> None:
        """The prefill of the plan is done; whoever completed decodes from the next step on."""
        q, came = self.requests, run.speakers[len(self.decoding):]
        q.prefill_token_s[came] = run.ends_s[-1]
        self.clock.join(q, came)
        self.decoding = np.sort(run.speakers)
        self.happened |= Event.PREFILLED
        self.prefill, self.chunk_unfinished = (), len(run.rows) > len(run.speakers)

    def _finish(self, rows: Ints, now_s: float) -> None:
        q = self.requests
        self.clock.leave(q, rows)
        if self._finished:
            self._finished(rows, now_s)
        for row in rows:
            self.kv.unseat(row)
        freed = len(self.storing) > 0 or (self.kv.host_total and q.host_tokens[rows].any())
        keep, now_at = q.remove(rows)
        self.decoding = now_at[self.decoding[keep[self.decoding]]]
        if len(self.storing):
            self.storing = now_at[self.storing[keep[self.storing]]]
        if freed:
            stored = np.zeros(q.n, np.bool_)
            stored[self.storing] = True
            self.kv.recount_host(stored)
        self.happened |= Event.FINISH
