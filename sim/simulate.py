"""Run one trace under one policy on one machine, to its end."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import simpy

from policies import POLICIES
from policies.api import Event, Floats, Ints, Policy
from traces import Trace, cells, options

from .engine import Engine, Watch
from .errors import FAULTS, BadInput, PolicyError, Wedged
from .goodput import check_goodput, described
from .machine import Machine
from .percentiles import check_percentiles
from .records import Fate, Records
from .result import Result, name_of
from .timeline import Recorder

if TYPE_CHECKING:
    from .hardware import Hardware

Progress = Callable[[int, int, float], None]    # requests done, requests in all, simulated seconds

DEFAULT_CONSUME_TPS = 20.0      # tokens per second, the TokenFlow paper's headline rate


def simulate(policy: Policy | str, trace: Trace, hardware: Machine | Hardware | str | Path = "rtx4090",
             model: str | Path = "llama3-8b", *, consume_rate: float = DEFAULT_CONSUME_TPS,
             max_concurrency: int | None = None, max_model_len: int | None = None,
             until_s: float | None = None, step_by_step: bool = False, watch: Watch | None = None, progress: Progress | None = None,
             seed: int | None = None, workload: str | None = None, label: str | None = None, timeline: bool = False,
             percentiles: Sequence[float] = (99,), goodput: Mapping[str, float] | None = None,
             provenance: Mapping[str, Any] | None = None, **machine_options: Any) -> Result:
    """Simulate `trace` under `policy`; the policy object itself is not touched, the run works on a copy.

    hardware: name of a built-in profile, path of a profile, a profile, or a `Machine`. model: name, or path of a Hugging Face
    config.json.
    machine_options: those of `sim.hardware.build_machine` (mem_fraction, kv_tokens, host_kv_tokens, max_num_seqs,
    max_num_batched_tokens, link, ...).
    consume_rate: tokens per second of readers whose rate the trace does not give. max_concurrency: requests in flight at the
    client. max_model_len: longer requests are rejected; no limit when None. until_s: stop then, the rest is unfinished.
    step_by_step: one engine step per event, for checking. seed, workload: recorded with the result; the run itself draws nothing.
    label: the policy's name in the result, when it is to be another than its own. timeline: also record how it went over time.
    percentiles: those that the summary reports; P99 it always does. goodput: limits in milliseconds by name (ttft, tpot, e2el,
    rebuffer) that good requests meet. provenance: what a ready Machine's figures rest on, for the result.

    Raises BadInput (one line) on input it cannot use, on a policy that raises or plans what cannot be carried out
    (PolicyError), and on a run that would never end (Wedged).
    """
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise BadInput("policy", policy, f"unknown; known are {', '.join(POLICIES)}")
        label, policy = label or policy, POLICIES[policy]()
    if isinstance(policy, type) or not callable(getattr(policy, "plan", None)):
        raise BadInput("policy", repr(policy), "must be a name or an object with a method plan(view)")
    check_percentiles(percentiles)
    check_goodput(goodput := {} if goodput is None else goodput)
    machine, rests_on = machine_of(hardware, model, policy, machine_options)
    check_run(trace, consume_rate, max_concurrency, max_model_len, until_s)
    recorder = Recorder(also=watch) if timeline else None
    run = _Run(_fresh(policy), trace, machine, consume_rate, max_concurrency, max_model_len, until_s, step_by_step,
               recorder or watch, progress)
    run.run()
    settings = {"consume_rate": consume_rate, "max_concurrency": max_concurrency, "max_model_len": max_model_len,
                "until_s": until_s, "seed": seed, "workload": workload, "goodput": described(goodput)}
    return Result(trace=trace, rates=run.rates, records=run.records, counters=run.engine.count, machine=machine, policy=policy,
                  provenance=rests_on | dict(provenance or {}), settings=settings, links=run.links(), end_s=run.env.now,
                  label=label or name_of(policy), timeline=recorder.timeline(run.engine) if recorder else None,
                  percentiles=percentiles, goodput=goodput)


def _fresh(policy: Policy) -> Policy:
    try:
        return copy.deepcopy(policy)
    except FAULTS as error:
        raise PolicyError(f"policy {type(policy).__name__}", "copied for the run", f"{type(error).__name__}: {error}") from error


def machine_of(hardware: Machine | Hardware | str | Path, model: str | Path, policy: Policy,
               given: dict[str, Any]) -> tuple[Machine, dict[str, Any]]:
    """The machine, and what its figures rest on. `given`: of `sim.hardware.build_machine`."""
    if isinstance(hardware, Machine):
        if given:
            raise BadInput("machine options", ", ".join(given), "not possible beside a ready Machine; use dataclasses.replace")
        return hardware, {"hardware": "custom", "model": str(model)}
    from .hardware import build_machine, manifest
    known = list(inspect.signature(build_machine).parameters)[2:]
    if unknown := [name for name in given if name not in known]:
        raise BadInput("machine options", ", ".join(unknown), f"unknown; known are {', '.join(known)}")
    if given.get("max_num_batched_tokens") is None and hasattr(policy, "engine_step_tokens"):
        given = given | {"max_num_batched_tokens": policy.engine_step_tokens}
    overridden = {name: given.get(name) for name in ("host_s", "link", "mem_fraction", "kv_tokens")}
    return build_machine(hardware, model, **given), manifest(hardware, model, **overridden)


def check_run(trace: Trace, consume_rate: float, max_concurrency: int | None, max_model_len: int | None,
              until_s: float | None) -> None:
    """BadInput on what cannot be simulated."""
    if not isinstance(trace, Trace):
        raise BadInput("trace", cells.shown(trace), "must be a Trace; traces.load_trace reads one from a file")
    options.tps("--consume-rate", consume_rate)
    if not len(trace):
        raise BadInput("trace", trace.source or "given", "holds no requests")
    for option, value in (("--max-concurrency", max_concurrency), ("--max-model-len", max_model_len), ("--until", until_s)):
        if value is not None and not (isinstance(value, int | float) and 0 < value < np.inf):
            raise BadInput(option, str(value), "must be a positive number")
    for option, value in (("--max-concurrency", max_concurrency), ("--max-model-len", max_model_len)):
        if value is not None and value != int(value):
            raise BadInput(option, str(value), "must be a whole number")


class _Run:
    """The clients of one engine: they send requests, and wait where --max-concurrency says so."""

    def __init__(self, policy: Policy, trace: Trace, machine: Machine, consume_rate: float, max_concurrency: int | None,
                 max_model_len: int | None, until_s: float | None, step_by_step: bool, watch: Watch | None,
                 progress: Progress | None) -> None:
        self.env, self.trace, self.machine, self.policy = simpy.Environment(), trace, machine, policy
        self.engine = Engine(self.env, machine, policy, step_by_step=step_by_step, watch=watch, finished=self._finished,
                             stop_s=np.inf if until_s is None else until_s)
        self.records = Records.blank(len(trace))
        self.rates: Floats = np.where(np.isnan(trace.consume_tps), consume_rate, trace.consume_tps)
        self._progress, self._done, self._in_flight = progress, 0, 0
        self._max_concurrency = max_concurrency or len(trace)
        self._slot_free: simpy.Event | None = None
        self._turned_away = self.records.turn_away(trace, machine.kv_blocks * machine.block_size, max_model_len)
        self.env.process(self._clients())

    def _clients(self) -> Generator[simpy.Event, Any, None]:
        env, trace, add = self.env, self.trace, self.engine.requests.add
        columns: list[Any] = [self._turned_away, trace.arrival_s, trace.input_tokens, trace.output_tokens, self.rates,
                              trace.priority, trace.ttft_slo_s, trace.tpot_slo_s, trace.reader]
        # memoryviews give Python's numbers one by one: no list of them all
        rows = zip(*(memoryview(column) for column in columns))
        for id, (turned_away, arrival_s, prompt, output, rate, priority, ttft_slo_s, tpot_slo_s, reader) in enumerate(rows):
            if turned_away:
                self.records.sent_s[id] = arrival_s
                self._done += 1
                continue
            if arrival_s > env.now:
                yield env.timeout(arrival_s - env.now)
            while self._in_flight >= self._max_concurrency:
                self._slot_free = env.event()
                yield self._slot_free
            self._in_flight += 1
            self.records.sent_s[id] = env.now
            add(id, env.now, prompt, output, output, rate, priority, ttft_slo_s, tpot_slo_s, reader, trace.rate_changes[id])
            self.engine.note(Event.ARRIVAL)

    def _finished(self, rows: Ints, now_s: float) -> None:
        self.records.close(self.engine.requests, rows, Fate.COMPLETED, now_s)
        self._done += len(rows)
        self._in_flight -= len(rows)
        if self._slot_free is not None:
            slot, self._slot_free = self._slot_free, None
            slot.succeed()
        if self._progress:
            self._progress(self._done, len(self.trace), now_s)

    def run(self) -> None:
        """To the end, or to the time where the simulation stops."""
        engine, left = self.engine, self.engine.requests
        self.env.run(None if engine.stop_s == np.inf else engine.stop_s)
        if left.n and engine.stop_s == np.inf:
            raise Wedged.at(self.policy, self.env.now, left.n, "nothing runs, nothing moves, and no wake-up was asked for")
        if left.n:
            engine.take_across()
            engine.settle()
            rows = np.arange(left.n)
            engine.clock.leave(left, rows[left.joined[:left.n] >= 0])
            self.records.close(left, rows, Fate.UNFINISHED, np.nan)
        self.records.fate[self.records.fate == Fate.PENDING] = Fate.UNFINISHED
        self.records.keep_times(engine.clock)

    def links(self) -> dict[str, float]:
        """Bytes moved and seconds busy, by link. Where the simulation stops early, what the step under way writes is counted."""
        block_bytes, hidden = self.machine.block_size * self.machine.kv_token_bytes, self.engine.write_through
        (h2d, h2d_s), (d2h, d2h_s) = self.engine.h2d.moved(self.env.now), self.engine.d2h.moved(self.env.now)
        return {"h2d_bytes": h2d * block_bytes, "d2h_bytes": d2h * block_bytes, "h2d_busy_s": h2d_s,
                "d2h_busy_s": d2h_s, "write_through_bytes": hidden.tokens * self.machine.kv_token_bytes,
                "write_chunks": hidden.chunks, "late_chunks": hidden.late_chunks, "late_s": hidden.late_s}
