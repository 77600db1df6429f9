"""`tokenflow sweep`: many simulations from one file, with intervals over seeds. What is stored survives whatever ends it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_options import DEBUG, Flags, directory, flag

if TYPE_CHECKING:
    from rich.table import Table

    from .ledger import Entry
    from .study.design import Combination
    from .study.plan import Plan

FAILED = 1      #: exit code: some runs failed; the others are there

_MAIN = ("p99_ttft_ms", "mean_rebuffer_s", "effective_throughput", "output_throughput")
_SHOWN_FAILURES = 10


@dataclass(frozen=True)
class SweepOptions(Flags):
    study: Annotated[str, typer.Argument(
        metavar="STUDY.yaml", help="base, axes, list, latin_hypercube: flags of tokenflow run by name; and seeds")]
    jobs: Annotated[int | None, flag("Run", "Runs at a time (default: as many as there are cores)", metavar="N")] = None
    resume: Annotated[bool, flag("Run", "Go on in DIR: finished runs stay, failed ones are tried again", "--resume")] = False
    dry_run: Annotated[bool, flag("Run", "Show what would be run, and what of it is done; write nothing", "--dry-run")] = False
    backend: Annotated[str, flag("Run", "Where runs are computed (default: loky, processes of this machine)",
                                 metavar="loky|ray|dask")] = "loky"
    cluster: Annotated[str | None, flag(
        "Run", "Of Ray or Dask (default: RAY_ADDRESS or DASK_SCHEDULER_ADDRESS, else one begun here)", metavar="ADDRESS")] = None
    output_dir: Annotated[str | None, flag(
        "Output", "New or empty directory for the results (default: tokenflow-out/sweep-N)", "--output-dir", "-o",
        metavar="DIR")] = None
    debug: Annotated[bool, flag("Output", DEBUG, "--debug")] = False

    def at_a_time(self) -> int | None:
        from traces import options
        return None if self.jobs is None else options.whole("--jobs", self.jobs, least=1, most=1024)

    @property
    def target(self) -> Path | None:
        return directory(self.output_dir)


def show(options: SweepOptions) -> int:
    """Plan, run what is missing, show the table; what failed comes last on standard error, each with its command."""
    from traces import BadInput

    from . import saving
    from .cli_progress import Bar
    from .study import store
    from .study.clusters import checked
    from .study.plan import plan
    from .study.study import read_study
    from .study.sweep import sweep
    jobs = options.at_a_time()
    checked(options.backend, options.cluster)
    if options.resume and options.target is None:
        raise BadInput("--resume", "command line", "says of no directory what to resume: give -o DIR as well")
    planned = plan(read_study(options.study))
    folder = options.target or store.free(saving.DEFAULT_ROOT)
    if options.dry_run:
        _show_plan(planned, store.stored(folder, True, planned).done if options.target else {})
        return 0
    with Bar(wanted=True, of="runs") as bar:
        bar.begin("simulating")
        failed = sweep(planned, folder, jobs, options.resume, options.backend, options.cluster,
                       lambda done, total: bar(done, total, 0.0), ["tokenflow", *sys.argv[1:]])
    _show_results(planned, folder)
    _show_failures(failed, folder)
    print(folder)
    return FAILED if failed else 0


def _show_plan(plan: Plan, done: Mapping[str, Entry]) -> None:
    from .cli_tables import plain_console
    from .counted import counted
    console, table = plain_console(), _table("combination", "runs", "done", "failed")
    keys: dict[str, list[str]] = {str(combination): [] for combination in plan.combinations}
    for run in plan.runs:
        keys[str(run.combination)].append(run.key)
    for combination, own in keys.items():
        here = [done[key] for key in own if key in done]
        table.add_row(_text(combination), *(f"{n:,}" for n in (
            len(own), sum("facts" in entry for entry in here), sum("failed" in entry for entry in here))))
    console.print(table)
    finished = sum("facts" in done.get(key, ()) for key in plan.keys)
    console.print(f"{counted(len(plan.combinations), 'combination')}, {counted(len(plan.keys), 'run')}, {finished:,} of them done.")
    _show_alike(plan)


def _show_alike(plan: Plan) -> None:
    from .cli_tables import plain_console
    from .counted import counted
    if plan.alike:
        plain_console().print(f"{counted(plan.alike, 'combination')} run once: for every seed the requests are the same.")


def _show_results(plan: Plan, folder: Path) -> None:
    """The main metrics with the half widths of their intervals: what the first axis tells apart, side by side."""
    import csv

    from .cli_tables import plain_console, row_of
    from .study import tables
    from .study.design import shown
    told = {row["combination"]: row for row in csv.DictReader((folder / tables.SUMMARY).read_text().splitlines())}
    rows = [row for metric in _MAIN if (row := row_of(metric))]
    table = _table("", *(row.title.replace(" ", "\n", 1) for row in rows))
    for rest, group in _by_the_rest(plan).items():
        if rest:
            table.add_row(_text(rest), style="bold")
        for combination in group:
            first = dict([*combination.labels.items()][:1])
            label = ("  " if rest else "") + (shown(first, combination.flags) or str(combination))
            table.add_row(_text(label), *(_cell(row, told[str(combination)]) for row in rows))
        table.add_section()
    console = plain_console()
    console.print(table)
    runs = {int(row["runs"]) for row in told.values()}
    if runs != {1}:
        few, most = min(runs), max(runs)
        console.print(f"Means over {most if few == most else f'{few} to {most}'} seeds ± half the 95 % interval.")
    _show_alike(plan)


def _by_the_rest(plan: Plan) -> dict[str, list[Combination]]:
    """Combinations by what they say beside the first axis."""
    from .study.design import shown
    found: dict[str, list[Combination]] = {}
    for combination in plan.combinations:
        rest = dict([*combination.labels.items()][1:])
        found.setdefault(shown(rest, combination.flags), []).append(combination)
    return found


def _cell(row: Any, told: Mapping[str, str]) -> str:
    """The half width to two digits, the mean to as many places."""
    from math import floor, log10

    from .study.summary import CI
    mean, half = (float(text) * row.scale if (text := told.get(name)) else None for name in (row.value, row.value + CI))
    if mean is None:
        return "-"
    if half is None:
        return str(row.form.format(mean))
    places = min(max(1 - floor(log10(half)), 0), 3) if half > 0 else 2
    return f"{mean:,.{places}f} ±{half:,.{places}f}"


def _show_failures(failed: Sequence[Entry], folder: Path) -> None:
    from .counted import counted
    from .study import tables
    if not failed:
        return
    print(f"tokenflow: {counted(len(failed), 'run')} failed; --resume tries again:", file=sys.stderr)
    for entry in failed[:_SHOWN_FAILURES]:
        print(f"  {entry['command']}\n    {entry['failed']}", file=sys.stderr)
    if len(failed) > _SHOWN_FAILURES:
        print(f"  and {len(failed) - _SHOWN_FAILURES} more: {folder / tables.FAILURES}", file=sys.stderr)


def _table(first: str, *others: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _text(label: str) -> Any:
    from rich.text import Text
    return Text(label)
