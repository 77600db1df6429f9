"""The commands of `tokenflow-calibrate`: each parses, and leaves the work to a file of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from sim.cli_options import DEBUG, with_flags

from .cli_profile import machine_app
from .cli_replay import replay_app
from .cli_serve import serve_app
from .cli_validate import validate_app

app = typer.Typer(name="tokenflow-calibrate", add_completion=False, pretty_exceptions_enable=False, no_args_is_help=False,
                  help="Measure a machine, fit its latency model, say how wrong it is; serve with a policy.")

app.add_typer(machine_app)
app.add_typer(serve_app)
app.add_typer(replay_app)
app.add_typer(validate_app)

_Debug = Annotated[bool, typer.Option("--debug", help=DEBUG, show_default=False)]
_WHERE = "Where the table was measured (samples say it themselves)"


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    samples: Annotated[str, typer.Argument(
        metavar="SAMPLES|TABLE.csv", help="Folder of tokenflow-calibrate profile, or a table with columns "
        "phase,batch,tokens_or_context,latency_ms", show_default=False)]
    output: Annotated[str, typer.Option(
        "--output", "-o", metavar="PROFILE.json", help="New profile; its residual plots lie beside it as .png", show_default=False)]
    name: Annotated[str | None, typer.Option(help="Of the profile (default: its file's)", show_default=False)] = None
    gpu: Annotated[str | None, typer.Option(
        metavar="NAME", rich_help_panel=_WHERE, show_default=False,
        help="One of tokenflow list hardware, which gives memory and links as well, or any name beside --memory-gib")] = None
    memory_gib: Annotated[float | None, typer.Option(
        metavar="GIB", help="Memory of that GPU", rich_help_panel=_WHERE, show_default=False)] = None
    model: Annotated[str | None, typer.Option(
        metavar="NAME|FILE", help="One of tokenflow list models, or a Hugging Face config.json", rich_help_panel=_WHERE,
        show_default=False)] = None
    engine: Annotated[str | None, typer.Option(
        metavar="NAME", help="Default: the table's column backend", rich_help_panel=_WHERE, show_default=False)] = None
    engine_version: Annotated[str | None, typer.Option(
        metavar="VERSION", help="Default: the table's column backend_version", rich_help_panel=_WHERE, show_default=False)] = None
    source: Annotated[str | None, typer.Option(
        metavar="TEXT", help="Who published it (default: the table's column source)", rich_help_panel=_WHERE,
        show_default=False)] = None
    host_time_ms: Annotated[float | None, typer.Option(
        metavar="MS", rich_help_panel=_WHERE, show_default=False,
        help="Host time that each latency includes (default: none, they are sums of kernels; 0.8 ms is then assumed beside them)",
    )] = None
    only_feasible: Annotated[bool, typer.Option(
        "--only-feasible", help="Leave out rows whose KV the GPU's memory does not hold", rich_help_panel=_WHERE,
        show_default=False)] = False
    debug: _Debug = False


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="A JSON file, or a built-in profile's name", show_default=False)]
    against: Annotated[str | None, typer.Option(
        metavar="TABLE.csv", help="Step times: a table, or a folder of samples", show_default=False)] = None
    e2e: Annotated[str | None, typer.Option(
        "--e2e", metavar="TABLE.csv", help="Closed loops: columns isl,osl,concurrency,ttft_ms,tpot_ms", show_default=False)] = None
    model: Annotated[str | None, typer.Option(
        metavar="NAME", help="Which model's step times (default: the profile's only one)", show_default=False)] = None
    whole_steps: Annotated[bool, typer.Option(
        "--whole-steps", help="The table's latencies include host time (samples say it themselves)", show_default=False)] = False
    only_feasible: Annotated[bool, typer.Option(
        "--only-feasible", help="Leave out rows whose KV the GPU's memory does not hold", show_default=False)] = False
    output: Annotated[str | None, typer.Option(
        "--output", "-o", metavar="DIR", help="New folder for the report and residual plots", show_default=False)] = None
    debug: _Debug = False


@dataclass(frozen=True, kw_only=True)
class RemakeOptions:
    output: Annotated[str, typer.Option("--output", "-o", metavar="DIR", help="New folder for the profiles", show_default=False)]
    data: Annotated[str | None, typer.Option(
        metavar="DIR", help="Folder that holds latency/ with the published tables (default: TOKENFLOW_DATA)",
        show_default=False)] = None
    debug: _Debug = False


@app.callback()
def _calibrate() -> None:
    """Measure a machine, fit its latency model, say how wrong it is; serve with a policy."""


@app.command("fit")
@with_flags
def fit(options: FitOptions) -> None:
    """Fit the latency model to samples or a table, and write it as a hardware profile."""
    from . import cli_fit
    cli_fit.fit(options)


@app.command("check")
@with_flags
def check(options: CheckOptions) -> None:
    """Hold a profile against measured steps, or against an engine under load."""
    from . import cli_fit
    cli_fit.check(options)


@app.command("remake")
@with_flags
def remake(options: RemakeOptions) -> None:
    """Fit every built-in profile anew to the published tables it rests on."""
    from .remake import write_all
    for line in write_all(options.output, options.data):
        print(line)
