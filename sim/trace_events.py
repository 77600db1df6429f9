"""`tokenflow trace-events`: what an engine did, as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.

A simulation keeps no steps, but it is the same each time: a saved run is simulated again, as its command says, and what comes out
must be what was saved. What was measured on a real engine cannot be, and shows what its files hold: tokens, readers, counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from math import inf, isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from traces import BadInput, Trace, options

from . import output_file, saving
from .cli_options import CompareOptions, OnePolicy, RunOptions, Simulated, flag_name
from .cli_progress import Bar
from .policy_choice import Choice, choose, choose_all
from .saved_runs import COMPARISON, HOST, RUN, Saved, read_object, read_run
from .simulate import simulate
from .timeline import Timeline
from .trace_json import TraceWriter, Track
from .trace_watch import ENGINE, REQUESTS, EventWatch, read_out

if TYPE_CHECKING:
    from .cli_report import TraceEventsOptions
    from .outcome import Outcome

USUAL = "trace.json.gz"
_WHAT = "trace-events"

Kind = TypeVar("Kind", RunOptions, CompareOptions)

#: columns of a timeline, by the counters that show them
_COUNTERS = {"queued": ("queued",), "running": ("running",), "paused": ("paused",), "away": ("on_host", "loading", "evicting"),
             "GPU blocks": ("gpu_blocks",), "host blocks": ("host_blocks",)}


def show(asked: TraceEventsOptions) -> Path:
    """Write the trace; prints and returns where it is."""
    target = output_file.check(Path(asked.output or USUAL), (".json", ".json.gz"))
    from_s, to_s = _window(asked)
    if asked.run is None:
        choice = choose(asked.policy, asked.policy_arg or [])
        _simulated(choice, asked.requests(), asked.simulation(), target, (from_s, to_s), None)
    else:
        _of_saved(Path(asked.run), _must_be_alone(asked), target, (from_s, to_s))
    print(target)
    return target


def _window(asked: TraceEventsOptions) -> tuple[float, float]:
    from_s = 0.0 if asked.from_s is None else options.zero_or_more("--from-s", asked.from_s)
    to_s = inf if asked.to_s is None else options.zero_or_more("--to-s", asked.to_s)
    if not from_s < to_s:
        raise BadInput("--to-s", f"{to_s:g}", f"must be later than --from-s, {from_s:g}")
    return from_s, to_s


def _must_be_alone(asked: TraceEventsOptions) -> str:
    """RUN, beside which no flag says what to simulate."""
    for f in fields(asked):
        said = f.name in {each.name for each in (*fields(Simulated), *fields(OnePolicy))}
        if said and getattr(asked, f.name) != f.default:
            why = f"cannot be given together with RUN: {asked.run} says it"
            raise BadInput(flag_name(f.name), str(getattr(asked, f.name)), why)
    return str(asked.run)


def _simulated(choice: Choice, trace: Trace, simulation: Mapping[str, Any], target: Path, window: tuple[float, float],
               saved: Saved | None) -> None:
    """Simulate it, watched; `saved`: what must come out."""
    with output_file.new_file(target) as file, TraceWriter(file, target.name.endswith(".gz"), *window) as out:
        watch = EventWatch(out, len(trace))
        with Bar(wanted=True) as bar:
            bar.begin(choice.label)
            result = simulate(choice.policy, trace, label=choice.label, watch=watch, progress=bar, **simulation)
        watch.close()
        if saved is not None:
            _must_be_the_same(saved, saving.run_facts(result))
        _readers(out, result)
        out.close(_about(result.summary))


def _readers(out: TraceWriter, result: Outcome) -> None:
    """One by one: all token times together would need much memory."""
    told = result.columns()
    for id in (~np.isnan(told["rebuffer_s"])).nonzero()[0].tolist():
        times_s, along = result.token_times_s(id), result.read_along(id)
        if times_s is not None and along is not None:
            read_out(out, id, float(told["sent_s"][id]), times_s, along)


def _about(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What was run, without what is long."""
    return {key: value for key, value in summary.items() if isinstance(value, str | int | float | None)}


# ---- a saved run

def _of_saved(folder: Path, shown: str, target: Path, window: tuple[float, float]) -> None:
    if not folder.is_dir():
        raise BadInput(_WHAT, shown, "is not a directory" if folder.exists() else "there is no such directory")
    if not (folder / RUN).is_file():
        runs = sorted(each.parent.name for each in folder.glob(f"*/{RUN}"))
        hint = f"; name one of its runs, such as {folder / runs[0]}" if runs else ": it is no run of tokenflow"
        raise BadInput(_WHAT, shown, f"holds no {RUN}{hint}")
    saved = read_run(folder)
    if saved.measured:
        return _measured(saved, target, window)
    choice, asked = _again(saved, _command(folder))
    _simulated(choice, asked.requests(), asked.simulation() | {"timeline": False}, target, window, saved)


def _command(folder: Path) -> list[str]:
    """The words that made it, after `tokenflow`."""
    for each in (folder, folder.resolve().parent):
        if (each / HOST).is_file() and (each == folder or (each / COMPARISON).is_file()):
            words = read_object(each / HOST).get("command")
            if isinstance(words, list) and len(words) > 1 and words[0] == "tokenflow" and all(isinstance(w, str) for w in words):
                return words[1:]
    raise BadInput(_WHAT, str(folder), f"no {HOST} says which command of tokenflow made it: give that command's flags in its place")


def _again(saved: Saved, words: list[str]) -> tuple[Choice, RunOptions | CompareOptions]:
    label, kind = saved.label, words[0]
    if kind == "run":
        asked = _read(RunOptions, words[1:], saved)
        return choose(asked.policy, asked.policy_arg or []), asked
    if kind == "compare":
        several = _read(CompareOptions, words[1:], saved)
        found = [choice for choice in choose_all(several.policies) if choice.label == label]
        if found:
            return found[0], several
    if kind == "demo":
        from . import demo
        return choose(label), RunOptions(policy=label, workload=demo.WORKLOAD, seed=int(saved.facts.get("seed") or 0))
    raise BadInput(_WHAT, str(saved.folder), (
        f"tokenflow {kind} does not say how to simulate {label}: give the flags of tokenflow run in its place"))


def _read(kind: type[Kind], words: list[str], saved: Saved) -> Kind:
    from .cli_errors import BadUsage
    from .cli_report import read_flags
    try:
        return read_flags(kind, words)
    except BadUsage as error:
        raise BadInput(_WHAT, str(saved.folder / HOST), f"its command is none of this version: {error}") from None


def _must_be_the_same(saved: Saved, now: Mapping[str, Any]) -> None:
    """BadInput where other code, or another file of requests, gives something else."""
    for key, value in now.items():
        then = saved.facts.get(key, "nothing")
        same = isclose(then, value, rel_tol=1e-9, abs_tol=1e-9) if _is_number(then) and _is_number(value) else then == value
        if not same and key != "tokenflow_lab":
            raise BadInput(_WHAT, str(saved.folder / RUN), (
                f"{key} is {then!r:.40} there and {value!r:.40} now: it was made by other code, or of another file of requests"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ---- what was measured

def _measured(saved: Saved, target: Path, window: tuple[float, float]) -> None:
    if not saved.keeps_tokens:
        raise BadInput(_WHAT, str(saved.folder / RUN), "has no token times: tokenflow-calibrate replay keeps them")
    told = saved.columns()
    with output_file.new_file(target) as file, TraceWriter(file, target.name.endswith(".gz"), *window) as out:
        for id in range(len(saved.requests["fate"])):
            times_s, track, sent_s = saved.token_times_s(id), Track(REQUESTS, f"request {id}", id), told["sent_s"][id]
            if times_s is not None and len(times_s):
                out.slice(track, "waits for the first token", sent_s, float(times_s[0]), {})
                out.slice(track, "running or paused", float(times_s[0]), float(times_s[-1]), {"tokens": len(times_s)})
                for token, at_s in enumerate(times_s.tolist()):
                    out.instant(Track(REQUESTS, f"request {id}, tokens", id), "token", at_s, {"token": token})
        _readers(out, saved)
        if saved.timeline is not None:
            _counts(out, saved.timeline)
        counts = ", counts over time (--save-timeline)" if saved.timeline is None else ""
        missing = f"steps, copies and the times of preemptions{counts}"
        out.close(_about(saved.facts) | {"not kept by a real engine": missing})
    print(f"{saved.label} was measured: the trace has tokens and readers; not kept were {missing}")


def _counts(out: TraceWriter, timeline: Timeline) -> None:
    told = timeline.columns()
    for name, columns in _COUNTERS.items():
        values = np.sum([told[column] for column in columns], axis=0)
        for start_s, value in zip(told["start_s"].tolist(), values.tolist()):
            out.counter(ENGINE, name, start_s, round(value, 3))
