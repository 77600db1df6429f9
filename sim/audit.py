"""Numbered invariants of the model machine, checked after every decision and after every run of steps.

    audit = Audit()
    simulate(policy, trace, watch=audit)
    audit.close()

The audit counts everything anew from what the engine shows it, and compares. It costs about as much as a run step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from policies.api import HOLDS_BLOCKS, NOBODY, Bools, Floats, Ints, Plan, Residency, View, blocks_for

from .audit_links import Traffic, links_broken, writing_broken
from .audit_readers import Followed
from .counters import Counters
from .engine import Engine, Watch
from .records import Fate, Records
from .requests import Requests
from .run import Run

_TIME_S = 1e-9      # clocks that were summed in another order differ by less
_READ_S = 1e-7      # and so do readers who were followed token by token


class InvariantBroken(AssertionError):
    """The model machine contradicts itself: which invariant, what it says, and the numbers."""

    def __init__(self, number: int, sentence: str, numbers: str) -> None:
        super().__init__(number, sentence, numbers)
        self.number, self.sentence, self.numbers = number, sentence, numbers

    def __str__(self) -> str:
        return " ".join(f"invariant {self.number}: {self.sentence}: {self.numbers}".split())


@dataclass
class Tally:
    """What the audit has counted itself; arrays by request id."""

    alive: Ints = field(default_factory=lambda: np.empty(0, np.int64))     #: ids that arrived and are not finished, ascending
    output: Ints = field(default_factory=lambda: np.zeros(256, np.int64))
    token_s: Floats = field(default_factory=lambda: np.full(256, -np.inf))
    readers: Followed = field(default_factory=Followed)
    count: Counters = field(default_factory=Counters)
    traffic: Traffic = field(default_factory=Traffic)       #: of loads and evictions; write-through comes on top
    run_end_s: float = 0.0
    now_s: float = 0.0

    def know(self, requests: Requests) -> None:
        self.readers.meet(requests, len(self.alive))
        self.alive = ids = requests.id[: requests.n].copy()
        while len(ids) and ids[-1] >= len(self.output):
            self.token_s = np.concatenate((self.token_s, np.full(len(self.output), -np.inf)))
            self.output = np.concatenate((self.output, np.zeros_like(self.output)))


class Parts(NamedTuple):
    """Rows of a run: who decodes, who computes a chunk of its prompt, and how many tokens."""

    decoding: Ints
    prefilling: Ints
    chunk: Ints

    @classmethod
    def of(cls, engine: Engine, run: Run) -> Parts:
        decodes = len(engine.decoders.rows)
        return cls(run.rows[:decodes], run.rows[decodes:], np.broadcast_to(run.tokens, len(run.rows))[decodes:])


class Moment(NamedTuple):
    """What a check looks at; `view` at decisions, `run` after runs and before the engine has booked them."""

    engine: Engine
    tally: Tally
    view: View | None = None
    run: Run | None = None
    parts: Parts = Parts(NOBODY, NOBODY, NOBODY)


class Invariant(NamedTuple):
    number: int
    sentence: str
    broken: Callable[[Moment], str]     #: the numbers that break it, "" when it holds


# ---- state: holds at every decision and between any two runs

def _places(m: Moment) -> str:
    q = m.engine.requests
    ids, known = q.id[: q.n], len(m.tally.alive)
    same = len(ids) >= known and bool((ids[:known] == m.tally.alive).all())
    ordered = bool((np.diff(ids) > 0).all() and (np.diff(q.arrival_s[: q.n]) >= 0).all())
    return "" if same and ordered else f"unfinished {ids.tolist()}, expected {m.tally.alive.tolist()} and newcomers"


def _gpu_blocks(m: Moment) -> str:
    kv = m.engine.kv
    return "" if kv.free >= 0 and kv.free + kv.held() == kv.total else f"free {kv.free} + held {kv.held()}, total {kv.total}"


def _host_blocks(m: Moment) -> str:
    kv = m.engine.kv
    held = kv.host_held(_marked(m, m.engine.copies.rows))
    same = kv.host_free >= 0 and kv.host_free + held == kv.host_total
    return "" if same else f"free {kv.host_free} + held {held}, total {kv.host_total}"


def _seats(m: Moment) -> str:
    q, most = m.engine.requests, m.engine.machine.max_seqs
    holders = int(np.count_nonzero(HOLDS_BLOCKS[q.residency[: q.n]]))
    return "" if holders <= most else f"{holders} of {most}"


def _kv(m: Moment) -> str:
    q, n = m.engine.requests, m.engine.requests.n
    kv, at = q.computed_tokens[:n], q.residency[:n]
    begun = _marked(m, m.parts.prefilling)          # a first chunk is under way: resident, and nothing computed yet
    has = (kv > 0) | (begun & (at == Residency.GPU))
    fits = (kv >= 0) & (kv < q.prompt_tokens[:n] + q.output_tokens[:n])
    return _rows(m, fits & (has == (at != Residency.NONE)), kv)


def _copies(m: Moment) -> str:
    q, n = m.engine.requests, m.engine.requests.n
    kv, host, at = q.computed_tokens[:n], q.host_tokens[:n], q.residency[:n]
    complete = (at == Residency.HOST) | (at == Residency.LOADING)
    return _rows(m, (host >= 0) & np.where(complete, host == kv, host <= kv), host)


def _decoders(m: Moment) -> str:
    q, n, decoding = m.engine.requests, m.engine.requests.n, m.engine.decoders.rows
    decodes = q.joined[:n] >= 0
    listed = _marked(m, decoding)
    ready = (q.residency[:n] == Residency.GPU) & (q.computed_tokens[:n] == q.prompt_tokens[:n] + q.output_tokens[:n] - 1)
    return _rows(m, (decodes == listed) & (ready | ~decodes), q.computed_tokens[:n])


def _outputs(m: Moment) -> str:
    q, n = m.engine.requests, m.engine.requests.n
    output = q.output_tokens[:n]
    seen = np.zeros(n, np.int64)
    seen[: len(m.tally.alive)] = m.tally.output[m.tally.alive]
    return _rows(m, (output == seen) & (output < q.final_tokens[:n]) & (q.final_tokens[:n] <= q.max_tokens[:n]), output)


def _counters(m: Moment) -> str:
    seen, count = m.tally.count, m.engine.count
    names = [f.name for f in fields(Counters) if f.name not in ("runs", "overlaps")]
    off = [name for name in names if abs(getattr(seen, name) - getattr(count, name)) > _TIME_S * (1 + getattr(count, name))]
    return ", ".join(f"{name} {getattr(count, name)}, seen {getattr(seen, name)}" for name in off)


def _in_flight(m: Moment) -> str:
    at = m.engine.requests.residency[: m.engine.requests.n]
    loading, evicting = int(np.count_nonzero(at == Residency.LOADING)), int(np.count_nonzero(at == Residency.EVICTING))
    same = (loading, evicting) == (m.engine.loading, m.engine.evicting)
    return "" if same else f"loading {loading}, counted {m.engine.loading}; evicting {evicting}, counted {m.engine.evicting}"


def _clock(m: Moment) -> str:
    now, busy = m.engine.env.now, m.engine.count.decode_s + m.engine.count.prefill_s
    return "" if now >= m.tally.now_s and busy <= now + _tolerance(now) else f"now {now}, before {m.tally.now_s}, busy {busy}"


def _links(m: Moment) -> str:
    return links_broken(m.engine, m.tally.traffic)


def _readers(m: Moment) -> str:
    q, known = m.engine.requests, len(m.tally.alive)
    read, expected = q.read_until_s[:known], m.tally.readers.read_s[m.tally.alive]
    with np.errstate(invalid="ignore"):
        right = (read == expected) | (np.abs(read - expected) <= _READ_S)
    return _rows(m, right & (q.consumption_rate[:known] == m.tally.readers.rate[m.tally.alive]), read)


# ---- decisions

def _last_of_the_instant(m: Moment) -> str:
    now, then = m.engine.env.now, m.engine.env.peek()
    done = now >= m.tally.run_end_s - _tolerance(now)
    return "" if then > now and done else f"now {now}, next event {then}, last run to {m.tally.run_end_s}"


def _view(m: Moment) -> str:
    v, q, kv = m.view, m.engine.requests, m.engine.kv
    assert v is not None
    for name in ("read_until_s", *View._fields):
        value = getattr(v, name)
        if isinstance(value, np.ndarray):
            if value.flags.writeable:
                return f"{name} is writable"
            real = kv.host_blocks() if name == "held" else getattr(q, name)[: q.n]
            if not np.array_equal(value, real, equal_nan=value.dtype.kind == "f"):
                return f"{name} {value.tolist()}"
    shown = (v.now_s, v.free_blocks, v.total_blocks, v.host_free_blocks, v.host_total_blocks)
    is_so = (m.engine.env.now, kv.free, kv.total, kv.host_total - kv.host_held(), kv.host_total)
    return "" if shown == is_so else f"shows {shown}, is {is_so}"


# ---- runs

def _batch(m: Moment, run: Run) -> str:
    q, most = m.engine.requests, m.engine.machine.max_step_tokens
    rows, tokens = run.rows, np.broadcast_to(run.tokens, len(run.rows))
    places = np.bincount(rows, minlength=q.n)
    if not len(rows) or int(places.max()) > 1 or int(tokens.sum()) > most:
        return f"{int((places > 0).sum())} requests in {len(rows)} places, {int(tokens.sum())} tokens of {most}"
    left = q.prompt_tokens[rows] + q.output_tokens[rows] - q.computed_tokens[rows]
    speaks = _marked(m, run.speakers)[rows]
    fine = (q.residency[rows] == Residency.GPU) & (tokens >= 1) & (tokens <= left) & (speaks == (tokens == left))
    alone = len(run.ends_s) == 1 or not len(m.parts.prefilling)
    same = np.array_equal(m.parts.decoding, m.engine.decoders.rows) and len(run.speakers) == int(speaks.sum())
    return "" if fine.all() and alone and same else f"ids {q.id[rows].tolist()}, tokens {tokens.tolist()} of {left.tolist()}"


def _order_in_time(m: Moment, run: Run) -> str:
    now, ids = m.engine.env.now, m.engine.requests.id[run.speakers]
    ends = np.concatenate(([run.start_s], run.ends_s))
    rises = bool((np.diff(ends) > 0).all()) and run.start_s >= m.tally.run_end_s - _tolerance(now)
    later = m.tally.token_s[ids] < run.ends_s[0]
    if rises and later.all() and abs(ends[-1] - now) <= _tolerance(now):
        return ""
    return f"run from {ends[0]} to {ends[-1]}, now {now}, last run to {m.tally.run_end_s}, ids {ids[~later].tolist()}"


def _room(m: Moment, run: Run) -> str:
    q, kv, bs = m.engine.requests, m.engine.kv, m.engine.machine.block_size
    before = q.computed_tokens[run.rows]
    grown = np.zeros(q.n, np.int64)
    grown[run.rows] = blocks_for(before + run.tokens * len(run.ends_s), bs) - blocks_for(before, bs)
    need, host = int(grown.sum()), int(grown[m.engine.copies.rows].sum())
    return "" if need <= kv.free and host <= kv.host_free else f"GPU {need} of {kv.free} blocks, host {host} of {kv.host_free}"


def _durations(m: Moment, run: Run) -> str:
    e, q, (decoding, prefilling, chunk) = m.engine, m.engine.requests, m.parts
    decodes, done, step_s = len(decoding), q.computed_tokens[prefilling], m.engine.machine.latency.step_s
    kv, pairs = float(q.computed_tokens[decoding].sum()), float((chunk * (done + chunk / 2)).sum())
    tokens, seqs = decodes + int(chunk.sum()), decodes + len(prefilling)
    first_s, last_s = (step_s(tokens, kv + decodes * step, pairs, seqs) for step in (0, len(run.ends_s) - 1))
    true_s = np.linspace(first_s, last_s, len(run.ends_s))      # the model is linear in KV
    took_s, slip_s = np.diff(run.ends_s, prepend=run.start_s), _tolerance(run.ends_s[-1])
    late = len(e.copies.rows) and not e.write_through.exact
    fine = (took_s >= true_s - slip_s) & (late | (took_s <= true_s + slip_s))
    return "" if fine.all() else f"steps took {took_s[~fine].tolist()}, the model says {true_s[~fine].tolist()}"


def _written(m: Moment, run: Run) -> str:
    made = np.zeros(m.engine.requests.n)
    made[run.rows] = run.tokens
    return writing_broken(m.engine, run, made)


def _of_run(check: Callable[[Moment, Run], str]) -> Callable[[Moment], str]:
    return lambda m: check(m, m.run) if m.run is not None else ""


# ---- the end: nobody is left

def _returned(m: Moment) -> str:
    kv = m.engine.kv
    free = (kv.free, kv.host_free)
    return "" if free == (kv.total, kv.host_total) else f"free {free} of {(kv.total, kv.host_total)}"


def _segments(m: Moment) -> str:
    id, token_s, start, stop = m.engine.clock.segments()
    told = np.bincount(id, weights=stop - start + ~np.isnan(token_s), minlength=len(m.tally.output))
    off = (told != m.tally.output).nonzero()[0]
    return "" if not len(off) else f"ids {off.tolist()}, in segments {told[off].tolist()}, delivered {m.tally.output[off].tolist()}"


STATE = (
    Invariant(1, "every request that arrived is unfinished, in exactly one row in order of arrival, or finished", _places),
    Invariant(2, "GPU blocks: free + held = total, never negative", _gpu_blocks),
    Invariant(3, "host blocks: free + held = total, never negative", _host_blocks),
    Invariant(4, "requests that hold GPU blocks have a seat each", _seats),
    Invariant(5, "a request has KV exactly when it is not NONE, and less than its prompt and output", _kv),
    Invariant(6, "a host copy is never larger than the KV, and complete for HOST and LOADING", _copies),
    Invariant(7, "decoders are resident, with KV of prompt + output - 1", _decoders),
    Invariant(8, "output counters equal the tokens delivered, and stay below the final length until the request goes", _outputs),
    Invariant(9, "the engine's counters equal what was seen", _counters),
    Invariant(10, "requests in flight equal copies under way", _in_flight),
    Invariant(11, "the clock never goes back, and the GPU is not busier than the clock", _clock),
    Invariant(12, "a link moves the blocks ordered, one copy at a time, at its rate or, beside the other way, its share", _links),
    Invariant(13, "readers stand where reading token by token has brought them, at the newest token's rate", _readers),
)
DECISION = (
    Invariant(14, "at one instant everything else goes first and the decision last", _last_of_the_instant),
    Invariant(15, "the view shows the engine, and nothing in it can be written", _view),
)
RUN = (
    Invariant(16, "a batch: residents, once each, within the token budget; who completes its prompt speaks", _of_run(_batch)),
    Invariant(17, "steps follow each other, and each request's tokens do", _of_run(_order_in_time)),
    Invariant(18, "what a run computes fits the free blocks of both tiers", _of_run(_room)),
    Invariant(19, "a step lasts as long as the latency model says; only a late chunk makes it longer", _of_run(_durations)),
    Invariant(20, "write-through writes what exists, in the time and at the rate the link has left", _of_run(_written)),
)
END = (
    Invariant(21, "when nobody is left, all blocks are free", _returned),
    Invariant(22, "tokens delivered equal the sum of the segments", _segments),
)

class Audit:
    """A Watch that raises InvariantBroken at the first contradiction. `also`: another Watch that sees the same."""

    def __init__(self, also: Watch | None = None) -> None:
        self.also, self.tally = also, Tally()
        self.decisions = self.runs = 0
        self._engine: Engine | None = None

    def decided(self, engine: Engine, view: View, plan: Plan) -> None:
        self._engine = engine
        self.decisions += 1
        self.tally.count.decisions += 1
        self._check(STATE + DECISION, Moment(engine, self.tally, view))
        self._meet(engine)
        self._book_plan(engine, view, plan)
        if self.also:
            self.also.decided(engine, view, plan)

    def ran(self, engine: Engine, run: Run) -> None:
        self.runs += 1
        parts = Parts.of(engine, run)
        self._check(STATE + RUN, Moment(engine, self.tally, None, run, parts))
        self._meet(engine)
        self._book_run(engine, run, parts)
        if self.also:
            self.also.ran(engine, run)

    def close(self) -> None:
        """After the run: whatever must hold when nobody is left; nothing to say when somebody is."""
        engine = self._engine
        if engine is not None and not engine.requests.n:
            self._check(STATE + END, Moment(engine, self.tally))

    @staticmethod
    def _check(invariants: tuple[Invariant, ...], moment: Moment) -> None:
        if moment.engine.aborted:
            moment.tally.alive = np.setdiff1d(moment.tally.alive, moment.engine.aborted)
        for invariant in invariants:
            numbers = invariant.broken(moment)
            if numbers:
                raise InvariantBroken(invariant.number, invariant.sentence, f"{numbers} (at {moment.engine.env.now:.9f} s)")

    def _meet(self, engine: Engine) -> None:
        self.tally.know(engine.requests)
        self.tally.now_s = engine.env.now

    def _book_plan(self, engine: Engine, view: View, plan: Plan) -> None:
        tally, count, bs = self.tally, self.tally.count, engine.machine.block_size
        drop, leave, load = view.rows(plan.drop), view.rows(plan.offload), view.rows(plan.load)
        here = view.residency[drop] == Residency.GPU
        count.drops += int(here.sum())
        count.copies_given_up += int((~here).sum())
        count.lost_tokens += int(view.computed_tokens[drop].sum())
        count.offloads, count.loads = count.offloads + len(leave), count.loads + len(load)
        count.forgets += len(plan.forget)
        kv, host = view.computed_tokens[leave], view.host_tokens[leave]
        writes = host < kv
        count.unwritten_tokens += float((kv - host)[writes].sum())
        tally.traffic.order(engine.machine, int(blocks_for(view.computed_tokens[load], bs).sum()),
                            int((blocks_for(kv, bs) - host.astype(np.int64) // bs)[writes].sum()))

    def _book_run(self, engine: Engine, run: Run, parts: Parts) -> None:
        tally, count, q = self.tally, self.tally.count, engine.requests
        steps, took_s = len(run.ends_s), float(run.ends_s[-1]) - run.start_s
        count.decode_tokens += steps * len(parts.decoding)
        if len(parts.prefilling):
            count.prefill_steps, count.prefill_s = count.prefill_steps + 1, count.prefill_s + took_s
            count.prefill_tokens += int(parts.chunk.sum())
            count.recomputed_tokens += int(parts.chunk[q.preemptions[parts.prefilling] > 0].sum())
        else:
            count.decode_steps, count.decode_s = count.decode_steps + steps, count.decode_s + took_s
        ids = q.id[run.speakers]
        tally.readers.deliver(ids, tally.output[ids], run.ends_s)
        tally.output[ids] += steps
        tally.token_s[ids] = run.ends_s[-1]
        tally.run_end_s = float(run.ends_s[-1])
        over = run.speakers[q.output_tokens[run.speakers] + steps == q.final_tokens[run.speakers]]
        tally.alive = np.setdiff1d(tally.alive, q.id[over])


# ---- records

def check_records(records: Records, asked: npt.ArrayLike | None = None) -> None:
    """Every request of the trace got exactly one fate, and its record agrees with its token times.

    `asked`: output tokens of each request in the trace, which the completed ones must have got.
    """
    fate, tokens = records.fate, records.tokens
    times = [records.token_times_s(id) for id in range(len(fate))]
    known = np.isin(fate, (Fate.COMPLETED, Fate.REJECTED, Fate.UNFINISHED))
    _records(23, "every row of the trace gets exactly one fate", known, fate)
    wanted, done = tokens if asked is None else np.asarray(asked), fate == Fate.COMPLETED
    full = np.where(done, (tokens >= 1) & (tokens == wanted), np.where(fate == Fate.REJECTED, tokens == 0, tokens <= wanted))
    _records(24, "completed means every token delivered, rejected none", full, tokens)
    same = np.array([len(t) == n for t, n in zip(times, tokens.tolist())])
    _records(25, "a request's token times are as many as its tokens", same, tokens)
    rising = np.array([bool((np.diff(t) > 0).all()) for t in times])
    _records(26, "a request's token times rise", rising, tokens)
    ends = np.array([(t[0], t[-1]) if len(t) else (np.nan, np.nan) for t in times]).reshape(-1, 2)
    first = np.where(tokens > 0, (records.first_s == ends[:, 0]) & (ends[:, 0] > records.sent_s), np.isnan(records.first_s))
    last = np.where(done, np.abs(records.last_s - ends[:, 1]) <= _TIME_S * (1.0 + ends[:, 1]), True)
    _records(27, "first and last token are those of the token times", first & last, records.first_s)


def _records(number: int, sentence: str, holds: Bools, numbers: npt.NDArray[np.generic]) -> None:
    if not holds.all():
        raise InvariantBroken(number, sentence, f"requests {(~holds).nonzero()[0].tolist()}, {numbers[~holds].tolist()}")


def _rows(m: Moment, holds: Bools, numbers: npt.NDArray[np.generic]) -> str:
    if holds.all():
        return ""
    q, bad = m.engine.requests, (~holds).nonzero()[0]
    return f"ids {q.id[bad].tolist()}, residency {q.residency[bad].tolist()}, {numbers[bad].tolist()}"


def _marked(m: Moment, rows: Ints) -> Bools:
    marks = np.zeros(m.engine.requests.n, np.bool_)
    marks[rows] = True
    return marks


def _tolerance(time_s: float) -> float:
    return _TIME_S * (1.0 + abs(time_s))
