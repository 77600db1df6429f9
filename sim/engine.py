"""The main loop: ask the policy, run steps on the GPU, deliver tokens.

At one instant everything else goes first and the decision last. Between decisions a plan stands, and the decode steps up to
the next thing that can happen are one SimPy event: a *run*. A run may end for any reason; only the plan says when the policy
is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from math import inf
from typing import Any, Protocol

import numpy as np
import simpy

from policies.api import HOLDS_BLOCKS, NOBODY, Event, Floats, Ints, InvalidPlan, Orders, Plan, Policy, Residency, View, check_plan

from .beliefs import Beliefs
from .block_copies import BlockCopies
from .counters import Counters
from .decoders import Decoders
from .errors import FAULTS, PolicyError, Wedged
from .host_copies import HostCopies
from .kv_cache import KVCache
from .link import host_links, take_across
from .machine import Machine
from .requests import Requests
from .run import Run
from .step_clock import StepClock
from .write_through import WriteThrough

_PATIENCE = 10_000      # decisions in a row without a step, or steps without a token: the policy will never go on


class Watch(Protocol):
    """Sees what the engine decides and does, and changes nothing."""

    def decided(self, engine: Engine, view: View, plan: Plan) -> None: ...

    def ran(self, engine: Engine, run: Run) -> None: ...


class Engine:
    """One GPU, its two links, its requests. `finished` is called with rows whose last token is out, before they go."""

    def __init__(self, env: simpy.Environment, machine: Machine, policy: Policy, *, step_by_step: bool = False,
                 watch: Watch | None = None, finished: Callable[[Ints, float], None] | None = None, stop_s: float = inf) -> None:
        self.env, self.machine, self.policy, self.step_by_step, self.watch = env, machine, policy, step_by_step, watch
        self.stop_s = stop_s                        # the simulation ends then: no run may hide tokens delivered before
        self.requests, self.clock, self.count = Requests(), StepClock(), Counters()
        self.kv = KVCache(machine, self.requests)
        self.h2d, self.d2h = host_links(machine)
        self.write_through = WriteThrough(machine, self.d2h)
        self.beliefs = Beliefs(machine)
        self.plan, self.happened, self.steps_to_wake = Plan(), 0, 0
        self.prefilling = self.chunk = NOBODY       # rows and tokens of the plan's prefill, until it is done
        self.chunk_unfinished = False               # ends the plan
        self.decoders = Decoders(self.requests, self.clock, self.kv)
        self.copies = (BlockCopies if machine.write_whole_blocks else HostCopies)(
            self.requests, self.clock, self.kv, self.decoders, self.write_through)
        self.landed: list[int] = []                 # ids that join the decoders at the next step
        self._fit = 0                               # decode steps that fit, found when the plan was looked at last
        self.loading = self.evicting = 0
        self.leaving: list[int] = []                # ids whose clients have given up
        self.aborted: list[int] = []                # those who are gone for that
        self.orphans: dict[int, int] = {}           # of those who were coming back: GPU blocks that the copy still fills
        self._finished = finished
        self._asleep: simpy.Event | None = None
        self._idle_decisions = self._barren_steps = self._barren_tokens = 0
        env.process(self._loop())

    # ---- the loop

    def _loop(self) -> Generator[simpy.Event, Any, None]:
        env = self.env
        while True:
            while env.peek() <= env.now:
                yield env.timeout(0)
            self.take_across()
            if self.landed:
                self._join_landed()
            if self.leaving:
                self._let_go()
            if not self._plan_stands():
                self._decide()
            run = self._next_run()
            if run is None:
                yield self._sleep()
            else:
                yield env.timeout(float(run.ends_s[-1]) - env.now)
                self.take_across()
                self._complete(run)

    def abort(self, id: int) -> None:
        """Its client gives up: it is gone before the next step, whatever the step under way still says."""
        self.leaving.append(id)
        self.note(0)

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
        self._fit = self._steps_that_fit() if self.decoders.n else 0
        return not self.decoders.n or self._fit > 0

    def take_across(self) -> None:
        """Requests whose copies are across by now move."""
        now_s = self.env.now
        if self.h2d.next_s <= now_s or self.d2h.next_s <= now_s:
            take_across(self.h2d, self.d2h, now_s)

    def settle(self) -> None:
        """Bring every row up to date; in between, those who decode are behind by the same steps."""
        self.copies.settle()
        self.decoders.settle()

    def _steps_that_fit(self) -> int:
        steps = self.decoders.steps_that_fit()
        return min(steps, self.copies.steps_that_fit()) if self.copies.n else steps

    def _sleep(self) -> simpy.Event:
        self._asleep, wakes_s = self.env.event(), min(self.plan.wake_at_s, self.h2d.next_s, self.d2h.next_s)
        return self._asleep if wakes_s == inf else self._asleep | self.env.timeout(max(wakes_s - self.env.now, 0.0))

    # ---- deciding

    def _readers(self) -> Floats:
        self.decoders.settle_readers()
        until_s: Floats = self.requests.frozen()[1][3]
        return until_s

    def view(self, held: Ints | None = None) -> View:
        q, m, kv, count = self.requests, self.machine, self.kv, self.count
        (id, prompt, output, most, computed, residency, preemptions, reader, *_), floats = q.frozen()
        arrival_s, host, rate, _, moved_s, priority, ttft_slo_s, tpot_slo_s, *_ = floats
        return View(self.env.now, id, arrival_s, prompt, output, most, computed, host, residency, rate, self._readers, preemptions,
                    moved_s, priority, ttft_slo_s, tpot_slo_s, reader, kv.free, kv.total, kv.host_free, kv.host_total, m.block_size,
                    m.max_seqs, m.max_step_tokens, self.h2d.free_s, self.d2h.free_s, count.decode_steps, count.prefill_steps,
                    count.decode_tokens, count.prefill_tokens, count.decode_s, count.prefill_s, self.beliefs, held)

    def _decide(self) -> None:
        self.happened = 0
        q = self.requests
        if not q.n:
            self.plan = Plan()
            return
        self.count.decisions += 1
        self._idle_decisions += not (self.loading or self.evicting)
        if self._idle_decisions > _PATIENCE:
            raise Wedged.at(self.policy, self.env.now, q.n, f"{_PATIENCE} decisions in a row ran no step")
        self.settle()
        held = None
        if self.copies.n:
            self.copies.become(NOBODY)
            held = self.kv.recount_host()
            held.flags.writeable = False
        view = self.view(held)
        try:
            plan = self.policy.plan(view)
        except FAULTS as error:
            raise PolicyError.raised(self.policy, self.env.now, error) from error
        if not isinstance(plan, Plan):
            raise PolicyError.at(self.policy, self.env.now, f"plan() returned {type(plan).__name__}, not a Plan")
        try:
            orders = check_plan(view, plan)
        except InvalidPlan as error:
            raise PolicyError.at(self.policy, self.env.now, str(error)) from error
        except Exception as error:
            raise PolicyError.at(self.policy, self.env.now, f"malformed plan: {type(error).__name__}: {error}") from error
        if self.watch:
            self.decoders.settle_readers()
            self.watch.decided(self, view, plan)
        self.plan, self.steps_to_wake, self.chunk_unfinished = plan, plan.wake_after_steps, False
        self._fit = 0
        self._apply(orders)

    def _apply(self, orders: Orders) -> None:
        decode, self.prefilling, self.chunk, offload, drop, load, store, forget = orders
        if len(forget):
            self.requests.host_tokens[forget] = 0.0
            self.count.forgets += len(forget)
        for row in drop.tolist():
            self._drop(row)
        self.decoders.become(decode)
        for row in offload.tolist():
            self._offload(row)
        for row in load.tolist():
            self._load(row)
        if len(store) or len(offload) or len(forget) or len(drop):
            self.copies.become(store)
            self.copies.recount()

    def _join_landed(self) -> None:
        q = self.requests
        ready = [row for row in map(q.row, self.landed) if q.joined[row] < 0
                 and q.prompt_tokens[row] + q.output_tokens[row] - q.computed_tokens[row] == 1]
        rows = np.array(ready, np.int64)
        self.landed.clear()
        if len(rows):
            self.decoders.join(rows)
            self.copies.joined(rows)

    # ---- moving KV

    def _drop(self, row: int) -> None:
        q = self.requests
        self.count.lost_tokens += int(q.computed_tokens[row])
        if q.residency[row] == Residency.HOST:
            self.count.copies_given_up += 1
            q.residency[row], q.moved_s[row] = Residency.NONE, self.env.now
        else:
            self.count.drops += 1
            self._leave_gpu(row, Residency.NONE, self.env.now)
        q.computed_tokens[row], q.host_tokens[row] = 0, 0.0

    def _leave_gpu(self, row: int, to: int, at_s: float) -> None:
        q = self.requests
        self.kv.unseat(row)
        q.residency[row], q.moved_s[row] = to, at_s
        q.preemptions[row] += 1

    def _offload(self, row: int) -> None:
        q = self.requests
        self.count.offloads += 1
        unwritten = float(q.computed_tokens[row] - q.host_tokens[row])
        if unwritten <= 0:
            return self._leave_gpu(row, Residency.HOST, self.env.now)
        self.count.unwritten_tokens += unwritten
        self.count.overlaps += self.loading > 0
        self.evicting += 1
        q.residency[row], q.moved_s[row], id = Residency.EVICTING, self.env.now, int(q.id[row])

        def evicted(at_s: float) -> None:
            row = q.row(id)
            if row == q.n or q.id[row] != id:       # its client has given up
                return
            self.evicting -= 1
            q.host_tokens[row] = q.computed_tokens[row]
            self._leave_gpu(row, Residency.HOST, at_s)
            self.happened |= Event.EVICTED
        self.d2h.copy(self.env.now, self.kv.unwritten_blocks(row), evicted)

    def _load(self, row: int) -> None:
        q = self.requests
        self.count.loads += 1
        self.count.overlaps += self.evicting > 0
        self.loading += 1
        self.kv.seat(row)
        q.residency[row], q.moved_s[row], id = Residency.LOADING, self.env.now, int(q.id[row])

        def landed(at_s: float) -> None:
            self.happened |= Event.LANDED
            if id in self.orphans:
                self.kv.orphaned -= self.orphans[id]
                self.kv.free += self.orphans.pop(id)
                return
            self.loading -= 1
            row = q.row(id)
            q.residency[row], q.moved_s[row] = Residency.GPU, at_s
            self.landed.append(id)
        self.h2d.copy(self.env.now, self.kv.blocks(row), landed)

    # ---- running

    def _next_run(self) -> Run | None:
        if len(self.prefilling):
            run = self._prefill_run()
        elif self.decoders.n:
            run = self._decode_run()
        else:
            return None
        self._idle_decisions = 0
        self.count.runs += 1
        if self.copies.n:
            self._write_through(run)
        return run

    def _decode_run(self) -> Run:
        """As many decode steps as nothing can interrupt: they end with the first that ends at or after the next event."""
        latency, now, kv, seqs = self.machine.latency, self.env.now, float(self.decoders.kv_tokens), self.decoders.n
        most = 1 if self.step_by_step else self._most_steps()
        horizon_s = min(self.env.peek(), self.plan.wake_at_s, self.h2d.next_s, self.d2h.next_s)
        step_s = latency.step_s(seqs, kv, 0.0, seqs)
        if horizon_s - now < most * step_s:                 # steps never get shorter: no more than these are needed
            most = min(most, int((horizon_s - now) / step_s) + 1)
        ends = latency.decode_ends_s(now, seqs, step_s, most)
        last_s = float(ends[-1])
        if last_s > horizon_s:
            ends = ends[: int(ends.searchsorted(horizon_s)) + 1]
        if last_s > self.stop_s and len(ends) > 1:
            ends = ends[: max(int(ends.searchsorted(self.stop_s)), 1)]
        return Run(now, ends, self.decoders.rows, NOBODY, NOBODY, NOBODY)

    def _most_steps(self) -> int:
        """Decode steps until the first request finishes, a reader's rate changes, blocks run out, or the plan wants to be asked."""
        most = min(self._fit or self._steps_that_fit(), self.decoders.to_finish, self.decoders.to_change)
        if self.plan.wake_after_steps:
            most = min(most, self.steps_to_wake)
        if self.copies.n and not self.write_through.exact:
            most = 1
        return most

    def _prefill_run(self) -> Run:
        q, decoders, now = self.requests, self.decoders, self.env.now
        rows, chunk = self.prefilling, self.chunk
        whole, computed, pairs = [], decoders.n, 0.0
        for row, tokens in zip(rows.tolist(), chunk.tolist()):
            done = int(q.computed_tokens[row])
            computed, pairs = computed + tokens, pairs + tokens * (done + tokens / 2)
            if q.residency[row] != Residency.GPU:
                q.residency[row], q.moved_s[row] = Residency.GPU, now
            if done + tokens == q.prompt_tokens[row] + q.output_tokens[row]:
                whole.append(row)
        seqs = decoders.n + len(rows)
        end_s = now + self.machine.latency.step_s(computed, float(decoders.kv_tokens), pairs, seqs)
        completing = rows if len(whole) == len(rows) else np.array(whole, np.int64)
        return Run(now, np.array([end_s]), decoders.rows, rows, chunk, completing)

    def _write_through(self, run: Run) -> None:
        """What is written during the run, known before it starts: the chunks are taken before each step."""
        copies, written = self.copies, bool(len(run.prefilling)) and self.copies.any_of(run.prefilling)
        if not self.watch and not written and copies.keep_up(run.start_s, run.ends_s, len(run.decoding) > 0):
            return
        self.settle()
        made = np.zeros(self.requests.n)
        made[run.decoding] = 1
        made[run.prefilling] = run.chunk
        run.unwritten, run.ends_s = copies.follow(run.start_s, run.ends_s, made[copies.rows])

    def _complete(self, run: Run) -> None:
        """The steps are over: deliver their tokens, and let go who is done."""
        if self.watch:
            self.settle()
            self.decoders.settle_readers()
            self.watch.ran(self, run)
        self.steps_to_wake -= len(run.ends_s)
        if len(run.decoding):
            self.decoders.advance(run.ends_s)
        over = self._prefilled(run) if len(run.prefilling) else False
        if self.decoders.to_change <= 0:
            self.decoders.change_rates()
        if run.unwritten is not None:
            self.decoders.settle()
            self.copies.book(run.unwritten)
        self._count(run)
        self._look_for_tokens(run)
        if over or (self.decoders.n and self.decoders.to_finish <= 0):
            self.settle()
            self._finish(self.decoders.done(), float(run.ends_s[-1]))

    def _prefilled(self, run: Run) -> bool:
        """Chunks are computed; who has completed its prompt puts out a token and decodes from the next step on.

        Says whether that was anyone's last.
        """
        q, bs, end_s, over = self.requests, self.machine.block_size, float(run.ends_s[-1]), False
        for row, tokens in zip(run.prefilling.tolist(), run.chunk.tolist()):
            done = int(q.computed_tokens[row])
            self.kv.free -= -(-(done + tokens) // bs) - -(-done // bs)
            q.computed_tokens[row] = done + tokens
            self.count.prefill_tokens += tokens
            if q.preemptions[row]:
                self.count.recomputed_tokens += tokens
        for row in run.completing.tolist():
            if not q.output_tokens[row]:
                q.first_s[row] = end_s
            q.output_tokens[row] += 1
            over |= bool(q.output_tokens[row] == q.final_tokens[row])
            q.read_until_s[row] = max(float(q.read_until_s[row]) + 1.0 / float(q.consumption_rate[row]), end_s)
            q.prefill_token_s[row] = end_s
        self.happened |= Event.PREFILLED
        self.prefilling = self.chunk = NOBODY
        self.chunk_unfinished = len(run.completing) < len(run.prefilling)
        if len(run.completing):
            self.decoders.join(run.completing)
            self.copies.joined(run.completing)
        return over

    def _look_for_tokens(self, run: Run) -> None:
        """Prefill that is thrown away again and again gives steps for ever, and no token."""
        if len(run.decoding) or len(run.completing):
            self._barren_steps = self._barren_tokens = 0
            return
        self._barren_steps, self._barren_tokens = self._barren_steps + 1, self._barren_tokens + int(run.chunk.sum())
        q, n = self.requests, self.requests.n
        if self._barren_steps > _PATIENCE and self._barren_tokens > 2 * int((q.prompt_tokens[:n] + q.output_tokens[:n]).sum()):
            raise Wedged.at(self.policy, self.env.now, n, f"{self._barren_steps} steps in a row gave no token")

    def _count(self, run: Run) -> None:
        count, steps, took_s = self.count, len(run.ends_s), float(run.ends_s[-1]) - run.start_s
        count.decode_tokens += steps * len(run.decoding)
        if len(run.prefilling):
            count.prefill_steps += 1
            count.prefill_s += took_s
        else:
            count.decode_steps += steps
            count.decode_s += took_s

    def _finish(self, rows: Ints, now_s: float) -> None:
        """These are done and go. Everything is settled."""
        self.decoders.leave(rows)
        if self._finished:
            self._finished(rows, now_s)
        for row in rows:
            self.kv.unseat(row)
        self._remove(rows)

    def _let_go(self) -> None:
        """Whoever gave up leaves, from wherever it is."""
        self.settle()
        q, gone = self.requests, self.leaving
        self.leaving = []
        rows = np.isin(q.id[: q.n], gone).nonzero()[0]      # of the others, all is out
        self.decoders.leave(rows[q.joined[rows] >= 0])
        for row, at in zip(rows.tolist(), q.residency[rows].tolist()):
            self.evicting -= at == Residency.EVICTING
            self.happened |= Event.EVICTED * (at == Residency.EVICTING)
            self.loading -= at == Residency.LOADING
            if at == Residency.LOADING:
                self.orphans[int(q.id[row])] = self.kv.blocks(row)
                self.kv.orphaned += self.kv.blocks(row)
            elif HOLDS_BLOCKS[at]:
                self.kv.unseat(row)
        self.aborted += q.id[rows].tolist()
        if len(rows):
            self._remove(rows)

    def _remove(self, rows: Ints) -> None:
        q = self.requests
        held = (q.host_tokens[rows] > 0) | (q.residency[rows] > Residency.GPU)      # host blocks
        copied = self.copies.n > 0 or (self.kv.host_total > 0 and np.count_nonzero(held) > 0)
        q.remove(rows)
        self.decoders.shift(rows)
        if copied:
            self.copies.shift(rows)
        self.happened |= Event.FINISH
