"""`tokenflow capacity`: its flags, its table, and what it says beside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from .cli_options import DEBUG, Setup, directory, flag

if TYPE_CHECKING:
    from .intervals import Estimate
    from .study.capacity import Capacity, Question

_search, _output = partial(flag, "Capacity"), partial(flag, "Output")

FAILED = 1      #: exit code: a policy failed; the others are there

LIMITS = "ttft:1300,rebuffer:500"


@dataclass(frozen=True)
class CapacityOptions(Setup):
    policies: Annotated[str, _search(
        "As for compare; ratios are to the first (default: sglang,vllm,tokenflow)", metavar="POLICY,...")] = "sglang,vllm,tokenflow"
    target: Annotated[float, _search("Share of requests that must meet every limit of --goodput (default: 0.99)",
                                     metavar="SHARE")] = 0.99
    of: Annotated[str | None, _search(
        "What is looked for: requests per second or at once (default: burst where the workload is one, else rate)",
        metavar="rate|burst")] = None
    duration: Annotated[float, _search("Seconds of arrivals of a rate (default: 300)", metavar="SECONDS")] = 300.0
    seeds: Annotated[int, _search("Of the requests, from --seed on (default: 5)", metavar="N")] = 5
    tolerance: Annotated[float, _search("Of the load that is found (default: 0.02)", metavar="SHARE")] = 0.02
    max_load: Annotated[float | None, _search("Nobody looks beyond (default: 100 requests/s, or 4096 at once)",
                                              metavar="LOAD")] = None
    jobs: Annotated[int | None, _search("Bisections at a time (default: as many as there are cores)", metavar="N")] = None
    output_dir: Annotated[str | None, _output(
        "New or empty directory for the results (default: tokenflow-out/capacity-N)", "--output-dir", "-o", metavar="DIR")] = None
    debug: Annotated[bool, _output(DEBUG, "--debug")] = False

    def question(self) -> Question:
        """BadInput where it cannot be asked."""
        from traces import BadInput, options

        from .goodput import parse_goodput
        from .study.capacity import LEAST_TOLERANCE, MOST, Question
        for name in ("trace", *self.cuts()):
            if getattr(self, name) is not None:
                raise BadInput(f"--{name.replace('_', '-')}", str(getattr(self, name)),
                               "a file has the load it has; draw requests like its own: --input-len empirical:FILE")
        for name, instead in (("num_prompts", "requests at once are looked for, or follow from --duration"),
                              ("request_rate", "is what is looked for")):
            if getattr(self, name) is not None:
                raise BadInput(f"--{name.replace('_', '-')}", str(getattr(self, name)), instead)
        of = self._kind()
        if not 0 < self.target <= 1:
            raise BadInput("--target", str(self.target), "must be a share above 0, at most 1")
        if not LEAST_TOLERANCE <= self.tolerance <= 1:
            raise BadInput("--tolerance", str(self.tolerance), f"must be a share from {LEAST_TOLERANCE:g} to 1")
        goodput = self.goodput or [LIMITS]
        parse_goodput(goodput)
        duration_s = options.positive("--duration", self.duration)
        most = MOST[of] if self.max_load is None else options.positive("--max-load", self.max_load)
        mine = {f.name for f in fields(CapacityOptions)} - {f.name for f in fields(Setup)}
        flags = {f.name: getattr(self, f.name) for f in fields(self)
                 if f.name not in mine | {"seed", "num_prompts", "request_rate"}} | {"goodput": goodput}
        asked = Question(flags, of, self.target, duration_s, self.tolerance, most)
        if most < asked.least or (of == "burst" and most != int(most)):
            number = "a whole number" if of == "burst" else "a rate"
            raise BadInput("--max-load", f"{most:g}", f"must be {number} from {asked.least:g}")
        return asked

    def _kind(self) -> Any:
        from traces import BadInput

        from .workloads import workload
        named = workload(self.workload) if self.workload is not None else None
        at_once = self.arrival == "burst" or (self.arrival is None and named is not None and named.request_rate is None)
        of = self.of or ("burst" if at_once else "rate")
        if of not in ("rate", "burst"):
            raise BadInput("--of", of, "must be rate or burst")
        if self.arrival is not None and (of == "burst") != (self.arrival == "burst"):
            raise BadInput("--arrival", self.arrival, f"cannot be given together with --of {of}")
        return of

    @property
    def target_dir(self) -> Path | None:
        return directory(self.output_dir)


def show(asked: CapacityOptions) -> int:
    """Look for every policy's capacity, and show and keep what is found; returns FAILED where a policy did."""
    from traces import BadInput, options

    from . import saving
    from .cli_progress import Bar
    from .policy_choice import choose_all, split_specs
    from .study.capacity import answers, capacities
    from .study.capacity_files import files
    question = asked.question()
    first_seed = options.whole("--seed", asked.seed, least=0)
    seeds = range(first_seed, first_seed + options.whole("--seeds", asked.seeds, least=1, most=1000))
    jobs = (os.cpu_count() or 1) if asked.jobs is None else options.whole("--jobs", asked.jobs, least=1, most=1024)
    policies, labels = split_specs(asked.policies), [choice.label for choice in choose_all(asked.policies)]
    example = question.options(policies[0], seeds[0], question.least)
    example.requests()
    example.simulation()
    with saving.Draft(asked.target_dir, "capacity") as draft:
        found = []
        with Bar(wanted=True, of="bisections") as bar:
            bar.begin("looking for capacities")
            for answer in answers(question, policies, seeds, jobs):
                found.append(answer)
                bar(len(found), len(policies) * len(seeds), 0.0)
        if all(answer.failed for answer in found):
            first = min(found, key=lambda answer: (labels.index(answer.policy), answer.seed))
            raise BadInput("capacity", first.command, first.failed)
        made = capacities(question, found, labels)
        for name, content in files(question, made).items():
            draft.write(name, content)
        draft.write("host.json", saving.as_json(saving.host_facts(command=["tokenflow", *sys.argv[1:]])))
        path = draft.publish()
    _tell(question, made)
    print(path)
    return FAILED if any(each.failed for each in made) else 0


def _tell(question: Question, found: Sequence[Capacity]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from .cli_tables import header, plain_console
    console = plain_console()
    for line in _heading(question):
        console.print(Text(line))
    first, n = found[0], len(found[0].answers)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column(question.unit, justify="right")
    table.add_column("95 % interval" if n > 1 else "", justify="right")
    table.add_column(Text(f"of {first.policy}'s" if len(found) > 1 else ""))
    for each in found:
        value, interval = (f"{each.mean.mean:.4g}", _interval(each.mean)) if each.mean else (each.bound, "")
        ratio = f"x{each.ratio.mean:.2f} {_interval(each.ratio, '.2f')}" if each.ratio else ""
        table.add_row(Text(header(each.policy)), value, interval, ratio)
    console.print(table)
    for line in _notes(question, found):
        console.print(Text(line))


def _heading(question: Question) -> Iterator[str]:
    from .goodput import parse_goodput
    limits = ", ".join(f"{name} {limit:g} ms" for name, limit in parse_goodput(question.flags["goodput"]).items())
    yield f"The largest load at which {100 * question.target:g} % of requests meet every limit: {limits}."
    if question.of == "rate":
        yield (f"Rates over {question.duration_s:g} s of arrivals, to within {100 * question.tolerance:g} %. Queues build up: "
               "with a longer --duration it is less.")
    else:
        yield f"Requests that come at once, to within one or {100 * question.tolerance:g} %."


def _interval(estimate: Estimate, form: str = ".4g") -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{estimate.low:{form}}, {estimate.high:{form}}]"


def _notes(question: Question, found: Sequence[Capacity]) -> Iterator[str]:
    first, what = found[0], "readers at once" if question.of == "burst" else "readers per second"
    for each in found[1:]:
        if each.ratio is not None:
            yield f"{each.policy}: x{each.ratio.mean:.2f} {_interval(each.ratio, '.2f')} as many {what} as {first.policy}."
    for each in found:
        if each.failed is not None:
            yield f"{each.policy} failed: {each.failed.failed}\n  {each.failed.command}"
        uneven = [one for answer in each.answers if (one := answer.border) is not None and (one.dips or one.again)]
        if uneven:
            loads = sorted({load for one in uneven for load in (*one.dips, *one.again)})
            yield (f"{each.policy}: not a clean border with {len(uneven)} of {len(each.answers)} seeds: a larger load was carried, "
                   f"or a smaller one not, at {', '.join(f'{load:g}' for load in loads)} {question.unit}.")
    yield ("Nothing guarantees that a smaller load is always easier: loads from 0.5 to 2 times each border were tried as well; "
           "points.csv has them all.")
