"""The command `tokenflow-calibrate`: where it begins. The commands themselves are in `cli_commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sim.cli_errors import run

if TYPE_CHECKING:
    import typer


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name); returns the exit code."""
    return run(_app, list(sys.argv[1:] if argv is None else argv), "tokenflow-calibrate")


def _app() -> typer.Typer:
    from .cli_commands import app
    return app
