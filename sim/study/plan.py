"""What there is to run: every combination with every seed, checked before anything runs. Requests are drawn once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

from traces import BadInput, Trace

from ..cli_options import Asked, Cut, Drawn, Read, RunOptions
from .design import Combination, combinations
from .setup import key
from .study import Study

_OF_REQUESTS = tuple(sorted({f.name for kind in (Read, Cut, Drawn) for f in dataclasses.fields(kind)} | {"consume_rate"}))


@dataclass(frozen=True)
class Run:
    combination: Combination
    options: RunOptions
    trace: Trace
    key: str            #: the same for the same simulation

    @property
    def seed(self) -> int:
        return self.options.seed


@dataclass(frozen=True)
class Plan:
    study: Study
    combinations: tuple[Combination, ...]
    runs: tuple[Run, ...]           #: combination by combination, seed by seed
    alike: int                      #: combinations whose requests are the same for every seed, and so run once

    @property
    def columns(self) -> list[str]:
        """Of the tables, one by axis."""
        return list(dict.fromkeys(name for combination in self.combinations for name in combination.labels))

    @property
    def keys(self) -> list[str]:
        """Each simulation once: two combinations may mean the same."""
        return list(dict.fromkeys(run.key for run in self.runs))


def plan(study: Study) -> Plan:
    """BadInput names the first combination that is impossible, and says how many others are."""
    found = combinations(study)
    traces, machines = _Traces(), _Machines()
    runs: list[Run] = []
    impossible: list[tuple[Combination, BadInput]] = []
    alike = 0
    for combination in found:
        try:
            options = [combination.options(study.where, seed) for seed in study.seeds]
            machines.check(options[0])
            drawn = [traces.of(each) for each in options]
            if len(drawn) > 1 and all(_same(drawn[0], each) for each in drawn[1:]):
                alike, drawn = alike + 1, drawn[:1]
            for each, trace in zip(options, drawn):
                machines.check_requests(each, trace)
                runs.append(Run(combination, each, trace, key(each, trace)))
        except BadInput as error:
            impossible.append((combination, error))
    if impossible:
        combination, error = impossible[0]
        others = f", and so are {len(impossible) - 1} others" if len(impossible) > 2 else (
            ", and so is another" if len(impossible) == 2 else "")
        where = error.where if error.where.startswith(study.where) else f"{study.where}: {error.where}"
        raise BadInput(error.what, where, f"{error.why} (combination {combination}{others})" if combination.labels else error.why)
    return Plan(study, tuple(found), tuple(runs), alike)


class _Traces:
    """Requests, drawn or read once for all that ask for the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Trace] = {}

    def of(self, options: RunOptions) -> Trace:
        return _once(self._known, tuple(getattr(options, name) for name in _OF_REQUESTS if name != "seed" or _random(options)),
                     options.requests)


def _random(options: Asked) -> bool:
    """Whether the seed has a say in the requests: a file is what it is, but readers and ties may be drawn."""
    return options.trace is None or options.jitter_ties is not None or options.readers()[1] is not None


class _Machines:
    """Whether policy, machine and requests go together, found out once for all that ask for the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Any] = {}

    def check(self, options: RunOptions) -> None:
        self._of(options)

    def check_requests(self, options: RunOptions, trace: Trace) -> None:
        """BadInput when none of the requests can ever be served."""
        from ..records import Records
        from ..simulate import check_run
        machine, run = self._of(options)
        check_run(trace, *(run[name] for name in ("consume_rate", "max_concurrency", "max_model_len", "until_s")))
        Records.blank(len(trace)).turn_away(trace, machine.kv_blocks * machine.block_size, run["max_model_len"])

    def _of(self, options: RunOptions) -> tuple[Any, dict[str, Any]]:
        from ..policy_choice import choose
        from ..simulate import machine_of, simulate
        flags = dataclasses.replace(options, seed=0)
        said = tuple(str(getattr(flags, f.name)) for f in dataclasses.fields(flags))
        arguments = tuple(options.policy_arg or ())
        chosen = _once(self._known, ("policy", options.policy, *arguments), lambda: choose(options.policy, arguments).policy)

        def built() -> tuple[Any, dict[str, Any]]:
            run = options.simulation()
            named = {name: run[name] for name in run if name not in _NO_MACHINE}
            usual = signature(simulate).parameters
            hardware, model = (named.pop(name, usual[name].default) for name in ("hardware", "model"))
            return machine_of(hardware, model, chosen, named)[0], run
        found: tuple[Any, dict[str, Any]] = _once(self._known, said, built)
        return found


#: what `RunOptions.simulation` says beside the machine
_NO_MACHINE = ("percentiles", "goodput", "workload", "consume_rate", "seed", "max_concurrency", "max_model_len", "until_s",
               "step_by_step", "timeline")


def _once(known: dict[tuple[Any, ...], Any], of: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    if of not in known:
        known[of] = make()
    return known[of]


def _same(one: Trace, other: Trace) -> bool:
    """Whether they hold the same requests."""
    from .setup import digest
    return one is other or digest(one) == digest(other)
