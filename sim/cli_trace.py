"""`tokenflow trace`: look at a trace, turn any known file into our own kind, draw one and keep it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_options import DEBUG, Cut, Drawn, with_flags

if TYPE_CHECKING:
    from traces import Trace

app = typer.Typer(help="Look at workload traces, convert and generate them.")

_Debug = Annotated[bool, typer.Option("--debug", help=DEBUG, show_default=False)]
_Rate = Annotated[str | None, typer.Option(
    help="Tokens per second that a reader takes, where the trace does not say: a number, 30/10@200 (10 from token 200 on), a mix "
    "such as 0.4:15,0.6:20 (share:rate), human-reading or human-listening", metavar="RATE", show_default=False)]


@dataclass(frozen=True, kw_only=True)
class DescribeOptions(Cut):
    file: Annotated[str, typer.Argument(metavar="FILE", help="The trace", show_default=False)]
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output", show_default=False)] = False
    debug: _Debug = False


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(Cut):
    file: Annotated[str, typer.Argument(metavar="IN", help="The trace, of any known kind", show_default=False)]
    out: Annotated[str, typer.Argument(
        metavar="OUT", help="New file, .csv or .csv.gz, with arrival_s,input_tokens,output_tokens[,...]", show_default=False)]
    consume_rate: _Rate = None
    debug: _Debug = False


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(Drawn):
    consume_rate: _Rate = None
    output: Annotated[str | None, typer.Option(
        "--output", "-o", metavar="FILE", help="New file, .csv or .csv.gz", show_default=False)] = None
    debug: _Debug = False


@app.command("describe")
@with_flags
def describe(options: DescribeOptions) -> None:
    """Show how fast and how unevenly requests come, and how long they are."""
    from . import cli_describe
    from .saving import as_json
    facts = cli_describe.measure(options.read(options.file))
    if options.json:
        print(as_json(facts), end="")
    else:
        cli_describe.show(facts)


@app.command("convert")
@with_flags
def convert(options: ConvertOptions) -> None:
    """Write a trace, or a part of it, in TokenFlow Lab's own kind of file."""
    from traces import parse_rates, with_rates
    readers = None if options.consume_rate is None else parse_rates("--consume-rate", options.consume_rate)
    _check_target(options.out)
    trace = options.read(options.file)
    _write(trace if readers is None else with_rates(trace, readers, options.seed), options.out)


@app.command("generate")
@with_flags
def generate(options: GenerateOptions) -> None:
    """Draw a trace at random and write it."""
    from traces import BadInput
    requests = options.workload if options.num_prompts is None else options.num_prompts
    for name, value in (("--num-prompts", requests), ("--output", options.output)):
        if value is None:
            raise BadInput(name, "(not given)", "trace generate needs it")
    assert options.output is not None
    _check_target(options.output)
    _write(options.draw(consume_rate=options.consume_rate), options.output)


def _check_target(path: str) -> None:
    from traces import BadInput
    if not path.lower().endswith((".csv", ".csv.gz")):
        raise BadInput("output file", path or repr(path), "must end in .csv or .csv.gz: it will be CSV")
    try:
        there = Path(path).exists()
    except (OSError, ValueError):       # not a name that a file can have: writing will say so
        return
    if there:
        raise BadInput("output file", path, "exists; files are never overwritten")


def _write(trace: Trace, path: str) -> None:
    from traces import write_trace

    from .counted import counted
    write_trace(trace, path)
    left_out = "".join(f", {counted(count, 'row')} with {reason} left out" for reason, count in trace.dropped.items())
    print(f"{path}: {counted(len(trace), 'request')}{left_out}")
