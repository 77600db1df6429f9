"""The command `tokenflow`: where it begins. The commands themselves, whose imports take a while, are in `cli_commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .cli_errors import run

if TYPE_CHECKING:
    import typer


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name); returns the exit code."""
    return run(_app, one_goodput(list(sys.argv[1:] if argv is None else argv)), "tokenflow")


def _app() -> typer.Typer:
    from .cli_commands import app
    return app


def one_goodput(words: list[str]) -> list[str]:
    """vLLM's way of giving `--goodput` several limits, with blanks between them, as the one word that the parser takes."""
    joined: list[str] = []
    for word in words:
        if joined[-2:-1] == ["--goodput"] and ":" in word and not word.startswith("-"):
            joined[-1] += f",{word}"
        else:
            joined.append(word)
    return joined
