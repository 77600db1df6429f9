"""Plays a trace against a real engine in this process: open loop, in real time, every token timed when its step has returned."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from policies.api import Bools, Floats
from sim.cli_errors import Ended
from sim.counted import counted
from sim.records import Records
from sim.simulate import Progress
from traces import Trace
from traces.pace import joined

PATIENCE_S = 300.0      #: without a token, while requests are in flight: it would go on like that for ever

_IDLE_S = 5e-4          # of a step that computed nothing: copies are awaited
_FIRST_TOKEN = 10       # below are special ones


@dataclass(frozen=True, slots=True)
class Spoke:
    """What a step put out for one request."""

    id: int
    tokens: int
    finished: bool


class Engine(Protocol):
    """Takes requests by their row in the trace, and runs one step at a time."""

    def add(self, id: int, prompt: list[int], output_tokens: int, reader: Mapping[str, Any]) -> None:
        """ValueError if it refuses the request. `reader`: SamplingParams.extra_args."""

    def step(self) -> list[Spoke]: ...

    def abort(self, ids: list[int]) -> None: ...

    def preemptions(self) -> Mapping[int, int]:
        """Of the requests so far."""


@dataclass(eq=False)
class Played:
    """What became of each request of the trace, shape (n,), in seconds since the start."""

    sent_s: Floats
    times_s: list[list[float]]
    reason: list[str]               #: why it was rejected, or is unfinished
    rejected: Bools
    preemptions: Floats             #: NaN where nobody counts
    start_s: float = 0.0            #: on the clock that timed it
    end_s: float = 0.0
    ended: BaseException | None = None      #: what ended it before its time: an interruption, or an error of the engine

    @classmethod
    def blank(cls, records: Records, rejected: Bools) -> Played:
        """`rejected`: the requests that `records` has turned away."""
        n = len(rejected)
        return cls(np.full(n, np.nan), [[] for _ in range(n)], records.reason.tolist(), rejected.copy(), np.full(n, np.nan))

    def unfinished(self, asked: list[int]) -> list[int]:
        return [id for id, times in enumerate(self.times_s) if not self.rejected[id] and len(times) < asked[id]]


class GaveUp(RuntimeError):
    """The engine does not go on."""


@dataclass
class Clock:
    """Real time; tests have their own."""

    now_s: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


@dataclass(eq=False)
class _Play:
    trace: Trace
    engine: Engine
    played: Played
    readers: list[dict[str, Any]]
    prompts: list[list[int]]
    max_concurrency: int
    clock: Clock
    until_s: float
    progress: Progress | None
    start_s: float = 0.0
    in_flight: set[int] = field(default_factory=set)
    free_s: float = 0.0             # until when clients were held back

    def now_s(self) -> float:
        return self.clock.now_s() - self.start_s

    def run(self) -> None:
        to_come = _rows(~self.played.rejected)
        next_id = next(to_come, None)
        arrival_s = self.trace.arrival_s.tolist()
        self.start_s = self.clock.now_s()
        token_s = 0.0               # when the last one came
        while next_id is not None or self.in_flight:
            now_s = self.now_s()
            if now_s >= self.until_s:
                return
            if not self.in_flight:
                token_s = now_s
            elif now_s - token_s > PATIENCE_S:
                raise GaveUp(f"no token for {PATIENCE_S:g} s, with {counted(len(self.in_flight), 'request')} in flight")
            while next_id is not None and arrival_s[next_id] <= now_s and len(self.in_flight) < self.max_concurrency:
                # the engine was busy with a step when it arrived; that it waits is the engine's affair
                self.send(next_id, max(arrival_s[next_id], self.free_s))
                next_id = next(to_come, None)
            if not self.in_flight:
                wait_s = min(math.inf if next_id is None else arrival_s[next_id], self.until_s) - self.now_s()
                self.clock.sleep(max(wait_s, 0.0))
                continue
            before_s = self.now_s()
            spoken = self.engine.step()
            after_s = self.now_s()
            if spoken:
                token_s = after_s
                self.heard(spoken, after_s)
            elif after_s - before_s < _IDLE_S:
                self.clock.sleep(_IDLE_S)

    def send(self, id: int, sent_s: float) -> None:
        self.played.sent_s[id] = sent_s
        try:
            self.engine.add(id, self.prompts[id], int(self.trace.output_tokens[id]), self.readers[id])
        except ValueError as error:
            self.played.rejected[id], self.played.reason[id] = True, " ".join(str(error).split())[:300]
            return
        self.in_flight.add(id)

    def heard(self, spoken: list[Spoke], now_s: float) -> None:
        full = len(self.in_flight) >= self.max_concurrency
        for each in spoken:
            self.played.times_s[each.id] += [now_s] * each.tokens
            if each.finished:
                self.in_flight.discard(each.id)
                self.free_s = now_s if full else self.free_s
                if len(self.played.times_s[each.id]) < self.trace.output_tokens[each.id]:
                    self.played.reason[each.id] = "the engine ended it before its last token"
        if self.progress and any(each.finished for each in spoken):
            sent = int(np.count_nonzero(~np.isnan(self.played.sent_s)))
            self.progress(sent - len(self.in_flight), len(self.trace), now_s)


def play(trace: Trace, engine: Engine, played: Played, *, vocab: int, consume_rate: float, max_concurrency: int | None = None,
         until_s: float | None = None, seed: int = 0, clock: Clock | None = None, progress: Progress | None = None) -> None:
    """The whole trace, but for the requests rejected beforehand. Whatever ends it early leaves what was measured by then."""
    prompts = [[] if played.rejected[id] else prompt(seed, id, int(tokens), vocab) for id, tokens in enumerate(trace.input_tokens)]
    run = _Play(trace, engine, played, readers(trace, consume_rate), prompts, max_concurrency or len(trace), clock or Clock(),
                math.inf if until_s is None else until_s, progress)
    try:
        run.run()
    except (KeyboardInterrupt, Ended, Exception) as error:
        played.ended = error
    played.start_s, played.end_s = run.start_s, run.now_s()
    for id, times in engine.preemptions().items():
        played.preemptions[id] = times
    explain(played, trace)
    if played.ended is None and run.in_flight:
        engine.abort(sorted(run.in_flight))


def explain(played: Played, trace: Trace) -> None:
    """Why who is unfinished is so."""
    why = "unfinished when the replay stopped"
    if played.ended is not None:
        why = f"unfinished: {how(played.ended)}"
    for id in played.unfinished(trace.output_tokens.tolist()):
        played.reason[id] = played.reason[id] or why


def how(ended: BaseException) -> str:
    """What ended a replay, in a few words."""
    if isinstance(ended, KeyboardInterrupt):
        return "the replay was interrupted"
    if isinstance(ended, Ended):
        return "the replay was ended by a signal"
    if isinstance(ended, GaveUp):
        return str(ended)
    return " ".join(f"{type(ended).__name__}: {ended}".split())[:300]


def prompt(seed: int, id: int, tokens: int, vocab: int) -> list[int]:
    """Random token ids, always the same of a request."""
    found: list[int] = np.random.default_rng((seed, id)).integers(_FIRST_TOKEN, vocab, tokens).tolist()
    return found


def readers(trace: Trace, consume_rate: float) -> list[dict[str, Any]]:
    """What the engine is told of each request's reader, under the names of the View's columns; only what was given."""
    rates = joined(np.where(np.isnan(trace.consume_tps), consume_rate, trace.consume_tps), trace.rate_changes)
    told = []
    for id, rate in enumerate(rates):
        said: dict[str, Any] = {"consumption_rate": rate if isinstance(rate, float) else str(rate)}
        weight, ttft_s, tpot_s = (float(column[id]) for column in (trace.priority, trace.ttft_slo_s, trace.tpot_slo_s))
        if weight != 1.0:
            said["priority"] = weight
        said |= {name: value for name, value in (("ttft_slo_s", ttft_s), ("tpot_slo_s", tpot_s)) if not math.isnan(value)}
        if not trace.reader[id]:
            said["reader"] = 0
        told.append(said)
    return told


def _rows(wanted: Bools) -> Iterator[int]:
    return iter(wanted.nonzero()[0].tolist())
