"""Directories whose runs are kept as they finish, so that --resume completes what a kill has interrupted."""

from __future__ import annotations

import os
from pathlib import Path

from traces import BadInput

LOCK = ".lock"      #: of the process that works in the directory


def check(folder: Path, ledger: str, facts: str, resume: bool, what: str) -> None:
    """BadInput when the directory may not be used for a `what` (a run, a search): it has to be new or empty, or with `resume` one
    in which an interrupted `what` has left its ledger. `facts` is the file that comes last and says that all is there."""
    try:
        held = {path.name for path in folder.iterdir() if path.name != LOCK} if folder.is_dir() else set()
    except OSError as error:
        raise BadInput("output directory", str(folder), f"cannot be read: {(error.strerror or '').lower()}") from error
    if not folder.is_dir() and os.path.lexists(folder):
        raise BadInput("output directory", str(folder), "is a file")
    if facts in held:
        raise BadInput("output directory", str(folder), "holds finished results; results are never overwritten")
    if ledger in held and not resume:
        raise BadInput("output directory", str(folder), f"holds an interrupted {what}; --resume completes it")
    if resume and ledger not in held:
        raise BadInput("--resume", str(folder), f"holds no interrupted {what}")
    if not resume and any(not name.endswith(".partial") for name in held):
        raise BadInput("output directory", str(folder), "is not empty; results are never overwritten")


def make(folder: Path) -> None:
    """The directory, if it is not there yet."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> BadInput:
    return BadInput("output directory", str(folder), f"cannot be written: {(error.strerror or str(error)).lower()}")
