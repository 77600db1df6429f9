"""`tokenflow tune`: its flags, its directory, and what it says."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Annotated

from .cli_options import DEBUG, Setup, directory, flag, flag_name

if TYPE_CHECKING:
    from .study.tune import Found, Tuning

_search, _output = partial(flag, "Search"), partial(flag, "Output")

FORMAT, LEDGER = 1, "runs.jsonl"

_LOOK_S = 1e-6      # simulated, before anything is written: what cannot run at all shows


@dataclass(frozen=True)
class TuneOptions(Setup):
    policy: Annotated[str, _search("As for run: what is tuned (default: tokenflow)", metavar="POLICY")] = "tokenflow"
    policy_arg: Annotated[list[str] | None, _search("An argument that stays as it is; may be repeated", metavar="KEY=VALUE")] = None
    objective: Annotated[str, _search(
        "Metrics of run.json; which way is better is known and printed (default: p99_ttft_ms,effective_throughput,mean_rebuffer_s)",
        metavar="METRIC,...")] = "p99_ttft_ms,effective_throughput,mean_rebuffer_s"
    most: Annotated[list[str] | None, _search(
        "A limit that the winner keeps: mean_rebuffer_s=0.5, or duration=1.1x for times the defaults'; may be repeated",
        metavar="METRIC=VALUE")] = None
    least: Annotated[list[str] | None, _search("Likewise from below: output_throughput=0.97x", metavar="METRIC=VALUE")] = None
    param: Annotated[list[str] | None, _search(
        "An argument to search and its range, or values: interval_s=0.5:2:log, utility=marginal,slack, or its name alone where a "
        "range is known; may be repeated, nothing else is searched then (default, for tokenflow: those of "
        "sim/study/search_space.py)", metavar="NAME[=LOW:HIGH[:log]]")] = None
    trials: Annotated[int, _search("The defaults among them (default: 64)", metavar="N")] = 64
    seeds: Annotated[int, _search("Of the requests of a trial, from --seed on (default: 3)", metavar="N")] = 3
    held_out_seeds: Annotated[int, _search("The seeds after those, on which the winner is decided (default: 5)", metavar="N")] = 5
    held_out_workload: Annotated[list[str] | None, _search(
        "Decide on this workload as well, with its own requests and machine; may be repeated", metavar="NAME")] = None
    jobs: Annotated[int | None, _search("Simulations at a time (default: as many as there are cores)", metavar="N")] = None
    resume: Annotated[bool, _search("Complete what an interrupted command has left in DIR", "--resume")] = False
    output_dir: Annotated[str | None, _output(
        "New or empty directory for the results (default: tokenflow-out/tune-N)", "--output-dir", "-o", metavar="DIR")] = None
    debug: Annotated[bool, _output(DEBUG, "--debug")] = False

    def tuning(self) -> Tuning:
        """BadInput where it cannot be searched."""
        from traces import BadInput, options

        from .policy_choice import choose
        from .study.objectives import needs_goodput, parse_limit, parse_objectives, percentiles_of
        from .study.search_space import space
        from .study.tune import Tuning
        from .workloads import workload
        objectives = parse_objectives(self.objective)
        limits = [parse_limit(option, text) for option, given in (("--most", self.most), ("--least", self.least))
                  for text in given or []]
        keys = [*(each.key for each in objectives), *(each.key for each in limits)]
        if self.goodput is None and (key := needs_goodput(keys)):
            raise BadInput("--objective", key, "says something only with limits: give --goodput as well")
        for name in (others := self.held_out_workload or []):
            workload(name)
            if name == self.workload or others.count(name) > 1:
                raise BadInput("--held-out-workload", name, "is given twice, or is what is searched on")
        fixed = tuple(self.policy_arg or [])
        choose(self.policy, fixed)
        parameters = space(self.policy, fixed, self.param or [])
        own = {f.name for f in fields(TuneOptions)} - {f.name for f in fields(Setup)}
        percentiles = ",".join(dict.fromkeys([*self.metric_percentiles.split(","), *percentiles_of(keys)]))
        flags = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in own | {"seed"}}
        first = options.whole("--seed", self.seed, least=0)
        seeds = options.whole("--seeds", self.seeds, least=1, most=1000)
        held_out = options.whole("--held-out-seeds", self.held_out_seeds, least=1, most=1000)
        return Tuning(self.policy, fixed, flags | {"metric_percentiles": percentiles}, tuple(objectives), tuple(limits),
                      tuple(parameters), options.whole("--trials", self.trials, least=2, most=100_000), first,
                      tuple(range(first, first + seeds)), tuple(range(first + seeds, first + seeds + held_out)), tuple(others))

    def command(self) -> str:
        """What does it again; where its results go, and how many jobs did it, are left out."""
        words = ["tokenflow", "tune"]
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in ("output_dir", "jobs", "resume", "debug") or value == (None if f.default is MISSING else f.default):
                continue
            words += [word for each in (value if isinstance(value, list) else [value])
                      for word in ([flag_name(f.name)] if value is True else [flag_name(f.name), _shown(each)])]
        return shlex.join(words)


def _shown(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def show(asked: TuneOptions) -> None:
    """Search, decide, and leave trials, front and winner in the directory."""
    from traces import BadInput, options

    from . import resumable, saving
    from .cli_progress import Bar
    from .code_version import code_version
    from .ledger import Ledger
    from .publishing import publish
    from .study.sampler import must_be_there
    from .study.setup import digest, simulated
    from .study.store import alone
    from .study.tune import requests, search
    from .study.tune_files import FACTS, files
    must_be_there()
    tuning = asked.tuning()
    jobs = (os.cpu_count() or 1) if asked.jobs is None else options.whole("--jobs", asked.jobs, least=1, most=1024)
    for name in tuning.workloads:
        example = tuning.options({}, tuning.seeds[0], name)
        simulated(example, requests(example), until_s=_LOOK_S)
    searched, held_out = (digest(requests(tuning.options({}, seeds[0]))) for seeds in (tuning.seeds, tuning.held_out_seeds))
    if searched == held_out:
        raise BadInput("--held-out-seeds", tuning.own, (
            "every seed asks for the same requests, so none would be held out: draw arrivals or lengths at random, such as "
            "--input-len empirical:FILE --output-len empirical:FILE"))
    target = directory(asked.output_dir)
    if asked.resume and target is None:
        raise BadInput("--resume", "command line", "says of no directory what to resume: give -o DIR as well")
    folder = target or next(free for n in count(1) if not os.path.lexists(free := saving.DEFAULT_ROOT / f"tune-{n}"))
    resumable.check(folder, LEDGER, FACTS, asked.resume, "search")
    for line in _heading(tuning):
        print(line)
    resumable.make(folder)
    with alone(folder):
        header = {"format": FORMAT, "code": code_version(), "command": asked.command()}
        with (Ledger(folder / LEDGER, header, asked.resume) as ledger,
              Bar(wanted=True, of="simulations") as bar):
            stage = ""

            def done(finished: int, total: int, what: str) -> None:
                nonlocal stage
                if what != stage:
                    bar.begin(what)
                    stage = what
                bar(finished, total, 0.0)

            found = search(tuning, ledger, jobs, done)
        made = files(tuning, found, asked.command())
        made[LEDGER] = ledger.ordered(found.keys)
        made["host.json"] = saving.as_json(saving.host_facts(command=["tokenflow", *sys.argv[1:]]))
        publish(folder, made, FACTS)
    _tell(tuning, found)
    print(folder)


def _heading(tuning: Tuning) -> Iterator[str]:
    yield f"Tuning {tuning.policy}: {tuning.trials} trials of {len(tuning.seeds)} seeds, the defaults first."
    for each in tuning.objectives:
        yield f"  {each}"
    for limit in tuning.limits:
        yield f"  limit: {limit}"
    yield "Searched:"
    for parameter in tuning.space:
        yield f"  {parameter}" + (f": {parameter.range.why}" if parameter.range and parameter.range.why else "")


def _tell(tuning: Tuning, found: Found) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from .cli_tables import plain_console
    from .study.compared import compared, conclusion, number
    from .study.search_space import as_arguments
    from .study.tune import RULE
    console = plain_console()
    failed = sum(bool(trial.failed) for trial in found.trials)
    beyond = sum(not trial.kept for trial in found.trials) - failed
    aside = ", ".join(said for n, said in ((failed, f"{failed} failed"), (beyond, f"{beyond} beyond a limit")) if n)
    console.print(Text(f"Front: {len(found.front)} of {len(found.trials)} trials" + (f" ({aside})." if aside else ".")))
    console.print(Text(f"The rule: {RULE}."))
    console.print(Text(conclusion(tuning, found)))
    rows = compared(tuning, found)
    if not rows:
        return
    assert found.winner is not None
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("held out", "defaults", f"trial {found.winner}", "change", "95 % interval", ""):
        table.add_column(title, justify="left" if title in ("held out", "") else "right", no_wrap=title == "held out")
    for workload in dict.fromkeys(row.workload for row in rows):
        if len(tuning.workloads) > 1:
            table.add_section()
            table.add_row(Text(workload))
        for row in (row for row in rows if row.workload == workload):
            low, high = row.change.low, row.change.high
            interval = "" if low is None or high is None else f"[{number(low)}, {number(high)}]"
            table.add_row(row.objective.key, number(row.default.mean), number(row.winner.mean), number(row.change.mean), interval,
                          row.verdict)
    console.print(table)
    console.print(Text(f"It was chosen among {len(found.ranks)} on these very runs, which flatters it a little."))
    console.print(Text("Its arguments: " + ", ".join(as_arguments(found.trials[found.winner].given))))
