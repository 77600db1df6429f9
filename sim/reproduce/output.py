"""The directory of a reproduction: runs are kept in it as they finish, the page and pictures come at the end, all or none.

Unlike other results it is there from the start, because what has been computed must survive a kill.
"""

from __future__ import annotations

from pathlib import Path

from .. import publishing, resumable
from ..publishing import Files
from .runs import LEDGER

PAGE, FACTS = "reproduction.md", "reproduction.json"


def prepare(folder: Path, resume: bool) -> None:
    """The folder, new or empty; with `resume` one that an interrupted command has left. BadInput says what is in the way."""
    resumable.check(folder, LEDGER, FACTS, resume, "run")
    resumable.make(folder)
    try:
        (folder / LEDGER).open("ab").close()
    except OSError as error:
        raise resumable.unwritable(folder, error) from error


def free(folder: Path) -> Path:
    """The first of `tokenflow-out/reproduce-N` that is not there yet."""
    n = 1
    while (target := folder / f"reproduce-{n}").exists():
        n += 1
    return target


def publish(folder: Path, files: Files) -> None:
    """Every file, FACTS last, which says that the results are whole."""
    publishing.publish(folder, files, FACTS)
