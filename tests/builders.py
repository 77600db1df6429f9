"""Small machines, random traces, and an engine run that leaves everything to look at."""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np
import simpy

from policies.api import NOBODY, Event, Ints, Plan, Policy, Residency, View, blocks_for
from sim.beliefs import Beliefs
from sim.engine import Engine
from sim.errors import Wedged
from sim.latency import LatencyModel
from sim.machine import Machine
from sim.records import Fate, Records
from sim.run import Run
from traces.pace import Changes

FAST = LatencyModel(weights_s=5e-3, token_s=3e-5, kv_token_s=4e-8, pair_s=2e-10, seq_s=1e-5, knee=4.0, host_s=1e-3)
SLOW = LatencyModel(weights_s=1.7e-2, token_s=2e-4, kv_token_s=3e-7, pair_s=2e-9, seq_s=2e-5, knee=2.0, host_s=3e-3)
EVEN = LatencyModel(weights_s=1 / 64, token_s=0.0, kv_token_s=0.0, pair_s=0.0, seq_s=0.0, knee=1.0)     # every step alike


@dataclass(frozen=True)
class Ask:
    """One request of a test; it declares `max_tokens` (its true output length when 0)."""

    arrival_s: float
    prompt: int
    output: int
    rate: float = 20.0
    max_tokens: int = 0
    changes: Changes = ()


@dataclass
class Log:
    """A Watch that writes down every plan and every step, in a form two runs can be compared by."""

    plans: list[tuple[Any, ...]] = field(default_factory=list)
    asked_s: list[float] = field(default_factory=list)
    batches: list[dict[int, int]] = field(default_factory=list)
    ends_s: list[float] = field(default_factory=list)

    def decided(self, engine: Engine, view: View, plan: Plan) -> None:
        self.asked_s.append(view.now_s)
        orders = (tuple(getattr(plan, name).tolist()) for name in ("decode", "offload", "drop", "load", "store", "forget"))
        self.plans.append((*orders, plan.prefill, plan.until, plan.wake_after_steps))

    def ran(self, engine: Engine, run: Run) -> None:
        tokens = np.broadcast_to(run.tokens, len(run.rows)).tolist()
        batch = dict(zip(engine.requests.id[run.rows].tolist(), tokens))
        self.batches += [batch] * len(run.ends_s)
        self.ends_s += run.ends_s.tolist()


@dataclass
class Ran:
    engine: Engine
    records: Records
    log: Log
    policy: Policy          #: the copy that was asked


def machine(**changes: Any) -> Machine:
    """A small machine that is never short of anything, unless told otherwise."""
    return Machine(**{"latency": FAST, "kv_blocks": 10_000, "host_kv_blocks": 20_000, "block_size": 16, "max_seqs": 64,
                      "max_step_tokens": 2048} | changes)


def run_engine(asks: Sequence[Ask], policy: Policy, on: Machine, *, step_by_step: bool = False, stop_s: float = inf,
               watch: Log | None = None, watched: bool = True) -> Ran:
    """Runs `asks` (in order of arrival) on an engine to the end; Wedged when it never comes. Unwatched, the log stays empty."""
    env, log, policy, records = simpy.Environment(), watch or Log(), copy.deepcopy(policy), Records.blank(len(asks))

    def finished(rows: Ints, now_s: float) -> None:
        records.close(engine.requests, rows, Fate.COMPLETED, now_s)

    def clients() -> Generator[simpy.Event, Any, None]:
        for id, ask in enumerate(asks):
            if ask.arrival_s > env.now:
                yield env.timeout(ask.arrival_s - env.now)
            records.sent_s[id] = env.now
            engine.requests.add(id, env.now, ask.prompt, ask.max_tokens or ask.output, ask.output, ask.rate,
                                rate_changes=ask.changes)
            engine.note(Event.ARRIVAL)

    engine = Engine(env, on, policy, step_by_step=step_by_step, watch=log if watched else None, finished=finished, stop_s=stop_s)
    env.process(clients())
    env.run(None if stop_s == inf else stop_s)
    left = engine.requests
    if left.n and stop_s == inf:
        raise Wedged.at(policy, env.now, left.n, "nothing runs, nothing moves, and no wake-up was asked for")
    if left.n:
        engine.settle()
        rows = np.arange(left.n)
        engine.clock.leave(left, rows[left.joined[: left.n] >= 0])
        records.close(left, rows, Fate.UNFINISHED, np.nan)
    records.fate[records.fate == Fate.PENDING] = Fate.UNFINISHED
    records.keep_times(engine.clock)
    return Ran(engine, records, log, policy)


def view_of(on: Machine, now_s: float, prompt: Sequence[int], output: Sequence[int], at: Sequence[int], *,
            slack_s: Sequence[float] | None = None, arrival_s: Sequence[float] | None = None, rate: Sequence[float] | float = 20.0,
            priority: Sequence[float] | float = 1.0, max_tokens: int = 1000, ids: Sequence[int] | None = None,
            **counts: Any) -> View:
    """Whoever is away from the GPU without output is new; all others have all their KV but for the newest token's.

    `slack_s`: what is left to read, 0 by default; `counts`: `decode_steps`, `decode_s` and so on since the start.
    """
    n, where = len(prompt), np.array(at)
    prompts, outputs = np.array(prompt, np.int64), np.array(output, np.int64)
    computed = np.where((where == Residency.NONE), 0, prompts + outputs - 1)
    until_s = np.where(outputs > 0, now_s + np.array(slack_s if slack_s is not None else np.zeros(n)), -np.inf)
    held = int(blocks_for(computed[(where == Residency.GPU) | (where > Residency.HOST)], on.block_size).sum())
    away = int(blocks_for(computed[where >= Residency.HOST], on.block_size).sum())
    none, arrived = np.full(n, np.nan), np.array(arrival_s if arrival_s is not None else np.zeros(n))
    counted = {"decode_steps": 100, "prefill_steps": 4, "decode_tokens": 400, "prefill_tokens": 640, "decode_s": 3.0,
               "prefill_s": 0.5}
    return View(now_s, np.array(ids if ids is not None else range(n)), arrived, prompts, outputs, np.full(n, max_tokens), computed,
                np.where(where == Residency.HOST, computed, 0).astype(float), where, np.broadcast_to(np.array(rate, float), n),
                lambda: until_s, ((where != Residency.GPU) & (outputs > 0)).astype(int), arrived,
                np.broadcast_to(np.array(priority, float), n), none, none, np.ones(n, int), on.kv_blocks - held, on.kv_blocks,
                on.host_kv_blocks - away, on.host_kv_blocks, on.block_size, on.max_seqs, on.max_step_tokens, 0.0, 0.0,
                **{**counted, **counts}, cost=Beliefs(on))


def random_asks(rng: np.random.Generator, n: int, prompt: int = 600, output: int = 120, rate: float = 8.0) -> list[Ask]:
    """Poisson arrivals, some of them together; lengths from 1 token on; slow and fast readers, a third of whom change."""
    gaps = rng.exponential(1 / rate, n) * (rng.random(n) > rng.choice([0.0, 0.5, 1.0], p=[0.4, 0.4, 0.2]))
    prompts, outputs = rng.integers(1, prompt + 1, n), rng.integers(1, output + 1, n)
    prompts[rng.random(n) < 0.1], outputs[rng.random(n) < 0.1] = 1, 1
    rates = rng.uniform(2, 40, n)
    return [Ask(float(t), int(p), int(o), float(r), changes=random_changes(rng, int(o)))
            for t, p, o, r in zip(gaps.cumsum(), prompts, outputs, rates)]


def random_changes(rng: np.random.Generator, output: int) -> Changes:
    """Of a reader, mostly none; some at neighbouring tokens, some just beyond the end."""
    if rng.random() < 2 / 3:
        return ()
    tokens = np.unique(rng.integers(1, output + 2, rng.integers(1, 6)))
    return tuple((int(token), float(rng.uniform(2, 40))) for token in tokens)


def random_machine(rng: np.random.Generator, asks: Sequence[Ask], tight: bool) -> Machine:
    """Blocks of 1, 16 or 32 tokens, a pool that holds a few of the requests or most of them, links and beliefs good and bad."""
    bs, seats = int(rng.choice([1, 16, 32])), int(rng.choice([1, 4, 16, 64]))
    sizes = np.array([-(-(ask.prompt + ask.output) // bs) for ask in asks])
    pool = int(sizes.max() + (rng.integers(0, 2 * sizes.max()) if tight else sizes.sum()))
    latency, host = (FAST, SLOW)[int(rng.integers(2))], int(pool * rng.choice([0, 0.1, 0.5, 2]))
    return Machine(latency, pool, host, bs, max_seqs=seats, max_step_tokens=max(int(rng.choice([32, 256, 2048])), seats),
                   h2d_bytes_per_s=float(rng.choice([0.1e9, 2e9, 25e9])), d2h_bytes_per_s=float(rng.choice([0.1e9, 2e9, 25e9])),
                   believed_step=float(rng.choice([0.5, 1, 1, 2])), believed_link=float(rng.choice([0.5, 1, 1, 2])),
                   duplex_h2d=float(rng.choice([0.3, 0.64, 1])), duplex_d2h=float(rng.choice([0.3, 0.96, 1])),
                   write_whole_blocks=bool(rng.random() < 0.5))


@dataclass
class Rotate:
    """A test policy: the emptiest buffers sit on the GPU, who has much to read waits on the host, written through."""

    tick_s: float = 0.5
    rich_s: float = 1.0         #: only who has at least this much to read leaves
    write_through: bool = True
    until: int = Event.ANY

    def plan(self, view: View) -> Plan:
        at, bs, left = view.residency, view.block_size, view.remaining_tokens
        order = np.argsort(view.slack_s, kind="stable")
        size = blocks_for(view.prompt_tokens + view.output_tokens + 1, bs)
        here = at == Residency.GPU
        waits = (at[order] == Residency.NONE) | (at[order] == Residency.HOST)
        seats = view.max_seqs - int(np.count_nonzero(here | (at >= Residency.LOADING)))
        ready = order[here[order] & (left[order] == 1)]
        takes = view.computed_tokens[ready] % bs == 0
        decode = ready[~takes | (takes.cumsum() <= view.free_blocks)][: view.max_step_tokens]
        free = view.free_blocks - int(np.count_nonzero(view.computed_tokens[decode] % bs == 0))
        in_flight = bool((at >= Residency.LOADING).any())
        load, prefill, budget = [], [], view.max_step_tokens - len(decode)
        for row in (*order[here[order] & (left[order] > 1)], *order[waits]):
            resident = bool(here[row])
            missing = int(size[row] - blocks_for(view.computed_tokens[row : row + 1], bs)[0] * resident)
            if missing > free or seats < (not resident):
                break
            free, seats = free - missing, seats - (not resident)
            if at[row] == Residency.HOST:
                load.append(row)
                continue
            chunk = min(int(left[row]), budget)
            if chunk > 0:
                prefill.append((int(view.id[row]), chunk))
                budget -= chunk
        crowded = bool(waits.any()) and not load and not prefill and not in_flight
        rich = decode[view.slack_s[decode] >= self.rich_s][::-1][: 1 + len(decode) // 4] if crowded else decode[:0]
        host = view.host_free_blocks - (blocks_for(view.computed_tokens[rich], bs) - view.host_blocks[rich]).cumsum()
        leave = rich[host >= 0]
        stay = decode[~np.isin(decode, leave)]
        stuck = not len(stay) and not prefill and not load and not len(leave) and not in_flight
        drop = (ready if len(ready) else here.nonzero()[0])[-1:] if stuck else NOBODY
        room = int(host[len(leave) - 1]) if len(leave) else view.host_free_blocks
        store = self._store(view, stay[::-1], room) if self.write_through else NOBODY
        return Plan(decode=view.id[np.sort(stay)], prefill=tuple(prefill), offload=view.id[leave], drop=view.id[drop],
                    load=view.id[np.array(load, np.int64)], store=view.id[store], until=self.until,
                    wake_at_s=view.now_s + self.tick_s)

    @staticmethod
    def _store(view: View, rows: Ints, room: int) -> Ints:
        need = blocks_for(view.computed_tokens[rows] + 1, view.block_size) - view.host_blocks[rows]
        return rows[need.cumsum() <= room]
