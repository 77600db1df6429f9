"""A search for better parameters: trials on some seeds, the front of them, and a winner on seeds and workloads held out.

Trial 0 is the policy as it is. A trial is one simulation per seed, on the same requests as every other trial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from traces import BadInput, Trace

from ..cli_options import RunOptions
from ..intervals import Estimate, estimate
from ..ledger import Ledger
from ..report_terms import measure_of
from .kept import ended
from .objectives import WORSE, Limit, Objective, best, front, mean_ranks, verdict
from .sampler import Known, proposals
from .search_space import Parameter, as_arguments, start
from .setup import FLAGS, command, key

BATCH = 8           #: trials that are asked for at a time, however many jobs there are

RULE = ("of the front and the defaults, whoever has the best mean rank over all objectives and workloads on the held-out runs, "
        "keeps the limits there and, where the defaults do, is nowhere clearly worse than they (paired 95 % interval) in an "
        "objective that has no limit; ties go to the earlier trial, first the defaults")

#: flags that say which requests; another workload brings its own
_REQUESTS = ("workload", "num_prompts", "arrival", "request_rate", "burstiness", "input_len", "output_len", "trace", "start", "end",
             "limit", "time_scale", "time_unit", "jitter_ties")

Done = Callable[[int, int, str], None]      #: simulations finished, simulations in all, of what


@dataclass(frozen=True)
class Tuning:
    """What is to be searched, for what, on what."""

    policy: str                             #: as --policy has it
    fixed: tuple[str, ...]                  #: its arguments that stay, key=value
    flags: Mapping[str, Any]                #: of `tokenflow run`; not its policy, arguments and seed
    objectives: tuple[Objective, ...]
    limits: tuple[Limit, ...]
    space: tuple[Parameter, ...]
    trials: int                             #: the defaults among them
    seed: int                               #: of the search
    seeds: tuple[int, ...]                  #: of the requests
    held_out_seeds: tuple[int, ...]
    held_out_workloads: tuple[str, ...] = ()    #: beside the one that is searched on

    @property
    def workloads(self) -> tuple[str | None, ...]:
        """Of the held-out runs; None: the one that is searched on."""
        return (None, *self.held_out_workloads)

    @property
    def own(self) -> str:
        """What to call the workload that is searched on."""
        return str(self.flags.get("workload") or "the requests of the search")

    @property
    def keys(self) -> tuple[str, ...]:
        """Metrics that anything is decided on."""
        return tuple(dict.fromkeys([*(each.key for each in self.objectives), *(each.key for each in self.limits)]))

    def options(self, values: Mapping[str, Any], seed: int, workload: str | None = None) -> RunOptions:
        """One simulation. `values` are of the parameters, {} the defaults."""
        flags = dict(self.flags)
        if workload is not None:
            flags = {name: value for name, value in flags.items() if name not in _REQUESTS} | {"workload": workload}
        arguments = [*self.fixed, *as_arguments(values)]
        return RunOptions(**{**flags, "policy": self.policy, "policy_arg": arguments or None, "seed": seed})


@dataclass(frozen=True)
class Trial:
    """Values of the parameters, and what came of them on the seeds of the search."""

    number: int
    values: Mapping[str, Any]               #: of trial 0 those that the policy has by itself
    means: Mapping[str, Estimate]           #: by metric; {} where a simulation failed
    excess: tuple[float, ...] = ()          #: of each limit
    failed: str = ""                        #: why
    command: str = ""                       #: what fails again

    @property
    def kept(self) -> bool:
        """Whether it came to an end and kept every limit."""
        return not self.failed and all(each <= 0 for each in self.excess)

    @property
    def given(self) -> Mapping[str, Any]:
        """The values that it changes."""
        return self.values if self.number else {}


@dataclass(frozen=True)
class HeldOut:
    """A candidate on one held-out workload."""

    values: Mapping[str, tuple[float, ...]]     #: by metric, one a seed; {} where a simulation failed
    failed: str = ""

    def mean(self, metric: str) -> Estimate:
        return estimate(self.values[metric])

    def change(self, other: HeldOut, metric: str) -> Estimate:
        """This less the other, seed by seed on the same requests."""
        return estimate([own - its for own, its in zip(self.values[metric], other.values[metric])])


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    trials: tuple[Trial, ...]
    front: tuple[int, ...]                          #: numbers of trials that keep the limits
    held_out: Mapping[int, tuple[HeldOut, ...]]     #: of the front and the defaults, by workload
    out: Mapping[int, str]                          #: of those, who cannot win, and why
    ranks: Mapping[int, float]                      #: of all others
    winner: int | None                              #: None: nobody keeps the limits
    keys: Sequence[str] = field(default=(), repr=False)     #: of all simulations, in order


def search(tuning: Tuning, ledger: Ledger, jobs: int, done: Done) -> Found:
    """Trials in batches, then the held-out runs of the front. What the ledger knows is not done again."""
    runs = _Runs(ledger, jobs, tuning.keys)
    trials: list[Trial] = []
    for batch, count in enumerate(_batches(tuning.trials)):
        proposed = [start(tuning.policy, tuning.fixed, tuning.space)] if not batch else proposals(
            tuning.space, tuning.objectives, [_known(tuning, trial) for trial in trials], tuning.seed, batch, count)
        numbered = [(len(trials) + i, values) for i, values in enumerate(proposed)]
        runs.carry_out([tuning.options(values if number else {}, seed) for number, values in numbered for seed in tuning.seeds],
                       _counted(done, len(trials) * len(tuning.seeds), tuning.trials * len(tuning.seeds)))
        for number, values in numbered:
            trials.append(_trial(tuning, runs, number, values, trials[0] if trials else None))
        if trials[0].failed:
            raise BadInput(tuning.policy, trials[0].command, trials[0].failed)
    by_number = {trial.number: [trial.means[each.key].mean for each in tuning.objectives] for trial in trials if trial.kept}
    ahead = front(by_number, tuning.objectives)
    candidates = sorted({0, *ahead})
    wanted = {(number, workload): [tuning.options(trials[number].given, seed, workload) for seed in tuning.held_out_seeds]
              for number in candidates for workload in tuning.workloads}
    runs.carry_out([each for options in wanted.values() for each in options], lambda n, of: done(n, of, "held-out runs"))
    held_out = {number: tuple(runs.held_out(wanted[number, workload]) for workload in tuning.workloads) for number in candidates}
    out, ranks = ranked(tuning, held_out)
    return Found(tuple(trials), tuple(ahead), held_out, out, ranks, best(ranks) if ranks else None, tuple(runs.asked))


def _counted(done: Done, before: int, total: int) -> Callable[[int, int], None]:
    return lambda n, _: done(before + n, total, "trials")


def _batches(trials: int) -> Iterator[int]:
    """The defaults alone: limits may be relative to them."""
    yield 1
    for first in range(1, trials, BATCH):
        yield min(BATCH, trials - first)


def _trial(tuning: Tuning, runs: _Runs, number: int, values: Mapping[str, Any], default: Trial | None) -> Trial:
    wanted = [tuning.options(values if number else {}, seed) for seed in tuning.seeds]
    for options in wanted:
        if why := runs.failure(options):
            return Trial(number, values, {}, (), why, command(options))
    means = {metric: estimate([runs.value(options, metric) for options in wanted]) for metric in tuning.keys}
    base = means if default is None else default.means
    return Trial(number, values, means, tuple(limit.excess(means[limit.key].mean, base[limit.key].mean) for limit in tuning.limits))


def _known(tuning: Tuning, trial: Trial) -> Known:
    told = () if trial.failed else tuple(trial.means[each.key].mean for each in tuning.objectives)
    return Known(dict(trial.values), told, trial.excess)


def _beyond(tuning: Tuning, own: Sequence[HeldOut], default: Sequence[HeldOut]) -> str:
    """Which limit a candidate breaks; "" for none."""
    for workload, mine, base in zip(tuning.workloads, own, default):
        where = workload or tuning.own
        if mine.failed:
            return f"failed on {where}: {mine.failed}"
        for limit in tuning.limits:
            if limit.relative and base.failed:
                return f"{limit} cannot be told on {where}: there the defaults fail"
            value, reference = mine.mean(limit.key).mean, 0.0 if base.failed else base.mean(limit.key).mean
            if limit.excess(value, reference) > 0:
                return f"{limit.key} {value:.4g} on {where}, must be {limit}"
    return ""


def _worse(tuning: Tuning, own: Sequence[HeldOut], default: Sequence[HeldOut]) -> str:
    """Where a candidate is clearly behind the defaults without a limit that says how far that may go; "" for nowhere."""
    limited = {limit.key for limit in tuning.limits}
    for workload, mine, base in zip(tuning.workloads, own, default):
        for objective in tuning.objectives:
            key = objective.key
            if key not in limited and verdict(objective, mine.change(base, key)) == WORSE:
                return (f"{key} {mine.mean(key).mean:.4g} on {workload or tuning.own}, clearly worse than the defaults' "
                        f"{base.mean(key).mean:.4g}")
    return ""


def ranked(tuning: Tuning, held_out: Mapping[int, Sequence[HeldOut]]) -> tuple[dict[int, str], dict[int, float]]:
    """Who cannot win, and why; and the mean ranks of all others. Trial 0 is among them."""
    out = {number: why for number, own in held_out.items() if (why := _beyond(tuning, own, held_out[0]))}
    if 0 not in out:
        out |= {number: why for number in sorted({*held_out} - {*out}) if (why := _worse(tuning, held_out[number], held_out[0]))}
    return out, _ranks(tuning, {number: own for number, own in held_out.items() if number not in out})


def _ranks(tuning: Tuning, held_out: Mapping[int, Sequence[HeldOut]]) -> dict[int, float]:
    columns = {number: [each.mean(objective.key).mean for each in own for objective in tuning.objectives]
               for number, own in held_out.items()}
    return mean_ranks(columns, [objective.better for _ in tuning.workloads for objective in tuning.objectives])


# ---- simulations

class _Runs:
    """The simulations of a search: each done once, several at a time, and kept as soon as it is done."""

    def __init__(self, ledger: Ledger, jobs: int, metrics: Sequence[str]) -> None:
        self._ledger, self._jobs, self._metrics = ledger, jobs, metrics
        self._keys: dict[str, str] = {}         # by command

    @property
    def asked(self) -> list[str]:
        return list(dict.fromkeys(self._keys.values()))

    def _key(self, options: RunOptions) -> str:
        said = command(options)
        if said not in self._keys:
            self._keys[said] = key(options, requests(options))
        return self._keys[said]

    def carry_out(self, wanted: Sequence[RunOptions], done: Callable[[int, int], None]) -> None:
        from ..jobs import KILLED, each_done
        missing = {self._key(options): options for options in wanted}
        missing = {key: options for key, options in missing.items() if key not in self._ledger.done}
        finished = len(wanted) - len(missing)
        for (name, options), values in each_done(
                _carried_out, list(missing.items()), self._jobs, lambda named: {"failed": KILLED}):
            self._ledger.keep({"key": name, "command": command(options), **values})
            finished += 1
            done(finished, len(wanted))

    def failure(self, options: RunOptions) -> str:
        """Why there is nothing to judge by; "" where there is."""
        entry = self._ledger.done[self._key(options)]
        undefined = [metric for metric in self._metrics if entry.get("values", {}).get(metric) is None]
        return str(entry.get("failed") or (f"{undefined[0]} is undefined: nobody to take it of" if undefined else ""))

    def value(self, options: RunOptions, metric: str) -> float:
        return float(self._ledger.done[self._key(options)]["values"][metric])

    def held_out(self, wanted: Sequence[RunOptions]) -> HeldOut:
        for options in wanted:
            if why := self.failure(options):
                return HeldOut({}, why)
        return HeldOut({metric: tuple(self.value(options, metric) for options in wanted) for metric in self._metrics})


def _carried_out(named: tuple[str, RunOptions]) -> dict[str, Any]:
    """Every metric that has a better way; {"failed": why} of a policy that raised or came to no end, for others go on."""
    _, options = named
    result = ended(options, requests(options))
    if isinstance(result, str):
        return {"failed": result}
    return {"values": {name: value for name, value in result.summary.items() if measure_of(name) is not None}}


def requests(options: RunOptions) -> Trace:
    """Drawn or read once in each process, however many trials there are."""
    return _requests(tuple((name, getattr(options, name)) for name in FLAGS if name not in ("policy", "policy_arg", "goodput")))


@lru_cache(maxsize=64)
def _requests(flags: tuple[tuple[str, Any], ...]) -> Trace:
    return RunOptions(**dict(flags)).requests()
