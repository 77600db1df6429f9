"""The flags of `tokenflow report` and `tokenflow trace-events`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from .cli_options import DEBUG, Flags

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
