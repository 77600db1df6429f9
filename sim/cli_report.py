"""The flags of `tokenflow report` and `tokenflow trace-events`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from .cli_errors import parsed
from .cli_options import DEBUG, Flags, OnePolicy, Simulated, with_flags

Kind = TypeVar("Kind", bound=Flags)

_Debug = Annotated[bool, typer.Option("--debug", help=DEBUG, show_default=False)]


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Flags):
    directory: Annotated[str, typer.Argument(
        metavar="DIR", help="What run, compare, demo or sweep of tokenflow, or replay or compare of tokenflow-calibrate have left",
        show_default=False)]
    output: Annotated[str | None, typer.Option(
        "--output", "-o", metavar="FILE", help="New file, .html (default: DIR/report.html)", show_default=False)] = None
    debug: _Debug = False

    def target(self) -> Path | None:
        return None if self.output is None else Path(self.output)


@dataclass(frozen=True, kw_only=True)
class TraceEventsOptions(OnePolicy, Simulated):
    run: Annotated[str | None, typer.Argument(
        metavar="[RUN]", help="A run that was kept, in place of the flags of tokenflow run: it is simulated again; of a replay in "
        "a real engine, tokens and readers", show_default=False)] = None
    from_s: Annotated[float | None, typer.Option(
        "--from-s", metavar="SECOND", help="Leave out what ends before this second of the simulation", show_default=False)] = None
    to_s: Annotated[float | None, typer.Option(
        "--to-s", metavar="SECOND", help="Leave out what begins at this second or later", show_default=False)] = None
    output: Annotated[str | None, typer.Option(
        "--output", "-o", metavar="FILE", help="New file, .json or .json.gz (default: trace.json.gz)", show_default=False)] = None
    debug: _Debug = False


def read_flags(kind: type[Kind], words: list[str]) -> Kind:
    """The flags on a command line, as `kind` has them. BadUsage when it has no such flag."""
    from .cli import one_goodput
    app, caught = typer.Typer(add_completion=False), list[Kind]()

    def command(options: Any) -> None:
        caught.append(options)
    command.__annotations__ = {"options": kind, "return": None}
    app.command()(with_flags(command))
    parsed(app, one_goodput(words), "tokenflow")()
    return caught[0]
