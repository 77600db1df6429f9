"""The commands of `tokenflow`: they parse, call `sim.simulate`, show and keep what comes back.

Parsing only says what to do; it is done afterwards, so that every error comes out in one place (`cli_errors`): one line, exit
code 2. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_capacity import CapacityOptions
from .cli_options import CompareOptions, DemoOptions, Job, Options, ReproduceOptions, RunOptions, with_flags
from .cli_report import ReportOptions, TraceEventsOptions
from .cli_sweep import SweepOptions
from .cli_trace import app as trace_app
from .cli_tune import TuneOptions

if TYPE_CHECKING:
    from traces import Trace

    from .cli_progress import Bar
    from .policy_choice import Choice
    from .result import Result

app = typer.Typer(name="tokenflow", add_completion=False, pretty_exceptions_enable=False, no_args_is_help=False)


@app.callback(invoke_without_command=True)
def _tokenflow(version: Annotated[bool, typer.Option("--version", help="Show the version and exit")] = False) -> None:
    """A laboratory for LLM text-streaming schedulers: who gets the first token late, and whose reading stalls."""
    if version:
        from .saving import version_of
        print(f"tokenflow {version_of('tokenflow-lab')}")
        raise typer.Exit


@app.command("run")
@with_flags
def run(options: RunOptions) -> None:
    """Simulate one policy."""
    from .policy_choice import choose
    _study(options, "run", lambda: [choose(options.policy, options.policy_arg or [])])


@app.command("compare")
@with_flags
def compare(options: CompareOptions) -> None:
    """Simulate several policies on the same requests."""
    from .policy_choice import choose_all
    _study(options, "compare", lambda: choose_all(options.policies))


@app.command("demo")
@with_flags
def demo(options: DemoOptions) -> None:
    """Five policies on a burst of 80 requests: a table, figures, and a report to look at."""
    from .demo import show
    show(options.seed, options.target)


@app.command("list")
def list_(what: Annotated[str, typer.Argument(metavar="policies|hardware|models|workloads", help="What to list")]) -> Job:
    """Show which policies, hardware profiles, models or workloads there are."""
    def job() -> None:
        from .cli_lists import show
        show(what)
    return job


app.add_typer(trace_app, name="trace")


@app.command("bench")
def bench(cases: Annotated[list[str] | None, typer.Argument(metavar="[CASE]...", help="What to measure; all if empty")] = None,
          json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output")] = False,
          profile: Annotated[bool, typer.Option("--profile", help="Show where the time goes, on standard error")] = False) -> Job:
    """Measure how fast the simulator is here, on fixed workloads."""
    def job() -> None:
        from .cli_bench import show
        show(cases or [], json, profile)
    return job


@app.command("reproduce")
@with_flags
def reproduce(options: ReproduceOptions) -> None:
    """The TokenFlow paper's tables and figures, published and here: which of its claims hold."""
    from . import cli_reproduce
    if options.listed:
        cli_reproduce.show_list()
    else:
        cli_reproduce.show(options.items or [], options.how(), options.workers(), options.resume, options.target)


@app.command("sweep")
@with_flags
def sweep(options: SweepOptions) -> int:
    """Simulate a study: policies, parameters, workloads and machines, each with several seeds. Exit code 1 if a run failed."""
    from .cli_sweep import show
    return show(options)


@app.command("report")
@with_flags
def report(options: ReportOptions) -> None:
    """One HTML page on the results in a directory: tables, figures, how to run it again."""
    from .report_dir import show
    show(Path(options.directory), options.target())


@app.command("trace-events")
@with_flags
def trace_events(options: TraceEventsOptions) -> None:
    """What the engine does, step by step, as a trace for Perfetto: requests, copies, preemptions, stalls."""
    from .trace_events import show
    show(options)


@app.command("tune")
@with_flags
def tune(options: TuneOptions) -> None:
    """Search for better parameters of a policy, for several metrics at a time; the winner is decided on runs held out."""
    from .cli_tune import show
    show(options)


@app.command("capacity")
@with_flags
def capacity(options: CapacityOptions) -> int:
    """The largest request rate, or burst, at which nearly all requests meet the limits of --goodput, under several policies.

    Limits are ttft:1300,rebuffer:500 where --goodput gives none. Exit code 1 if a policy failed.
    """
    from .cli_capacity import show
    return show(options)


def _study(options: Options, command: str, chosen: Callable[[], list[Choice]]) -> None:
    """Simulate each choice, keep the results unless nobody asked for that, and show them."""
    from contextlib import nullcontext, redirect_stdout

    from . import cli_tables, saving
    from .cli_progress import Bar
    trace = options.requests()
    keep = options.output_dir is not None or not options.json
    with saving.Draft(options.target, command) if keep else nullcontext() as draft:
        # what a policy prints must not get between our JSON and whoever reads it
        with Bar(wanted=not options.json) as bar, redirect_stdout(sys.stderr) if options.json else nullcontext():
            choices = chosen()
            runs = {choice.label: _timed(choice, trace, options, bar) for choice in choices}
        results = {label: result for label, (result, _) in runs.items()}
        cpu_s = {label: seconds for label, (_, seconds) in runs.items()}
        single = next(iter(results.values())) if command == "run" else None
        detailed = options.save_detailed
        facts = saving.run_facts(single, detailed) if single else saving.comparison_facts(results, detailed)
        path = None
        if draft is not None:
            if single:
                saving.write_run(draft, single, detailed=detailed)
            else:
                saving.write_comparison(draft, results, detailed)
            draft.write("host.json", saving.as_json(saving.host_facts(cpu_s, ["tokenflow", *sys.argv[1:]])))
            path = draft.publish()
    if options.json:
        print(saving.as_json(facts), end="")
    else:
        cli_tables.show(results, cpu_s)
        print(path)


def _timed(choice: Choice, trace: Trace, options: Options, bar: Bar) -> tuple[Result, float]:
    """The result, and the CPU seconds of `simulate`, its imports left out."""
    from . import hardware  # noqa: F401 -- imported here, so that its 0.2 s are not counted below
    from .simulate import simulate
    bar.begin(choice.label)
    start_s = time.process_time()
    result = simulate(choice.policy, trace, progress=bar, label=choice.label, **options.simulation())
    return result, time.process_time() - start_s
