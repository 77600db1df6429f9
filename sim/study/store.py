"""The directory of a study: its runs are kept in it as they finish, tables come at the end. One process at a time.

    study.yaml      as given                                runs.jsonl      the store: a line per run, failed ones as well
    runs.csv        a row per run                           summary.csv     a row per combination, with intervals over seeds
    paired.csv      policies against the first of them      failures.csv    what failed, and how to run it alone
    vllm/           for `vllm bench sweep plot`             host.json       when, where, with which versions

`--resume` goes on in such a directory, whatever ended the last one, and takes up every run that its study shares with it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from traces import BadInput

from ..code_version import code_version
from ..ledger import Ledger
from ..publishing import publish
from ..resumable import LOCK, make, unwritable
from .plan import Plan

STUDY, RUNS, VLLM = "study.yaml", "runs.jsonl", "vllm"
FORMAT = 1          #: of the store's lines


def free(root: Path) -> Path:
    """The first of ROOT/sweep-N that is not there yet."""
    return next(target for n in count(1) if not os.path.lexists(target := root / f"sweep-{n}"))


def stored(folder: Path, resume: bool, plan: Plan) -> Ledger:
    """What the directory holds of earlier runs. BadInput when it may not be used for this study, whose runs alone it may hold: none
    that came to its end is ever dropped. Nothing is written."""
    try:
        held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    except OSError as error:
        raise BadInput("output directory", str(folder), f"cannot be read: {(error.strerror or '').lower()}") from error
    held = {name for name in held if name != LOCK and not name.endswith(".partial")}
    if held and not resume:
        raise BadInput("output directory", str(folder), (
            "holds a study already; --resume completes it" if RUNS in held else "is not empty; results are never overwritten"))
    if held - {STUDY} and RUNS not in held:
        raise BadInput("output directory", str(folder), "holds something else than a study")
    ledger = Ledger(folder / RUNS, {"format": FORMAT, "code": code_version()}, resume=RUNS in held)
    mine = set(plan.keys)
    if others := sum("facts" in entry for key, entry in ledger.done.items() if key not in mine):    # what failed is no loss
        raise BadInput("--resume", str(folder), (
            f"holds {others} of its {len(ledger.done)} runs for another study than this one; begin anew elsewhere"))
    return ledger


@contextmanager
def opened(folder: Path, plan: Plan, resume: bool) -> Iterator[Ledger]:
    """The store, for this process alone until it leaves."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise BadInput("output directory", str(folder), "is a file")
    make(folder)
    with alone(folder):
        ledger = stored(folder, resume, plan)
        publish(folder, {STUDY: plan.study.text}, STUDY)
        with ledger:
            yield ledger


def finish(folder: Path, files: Mapping[str, str | bytes], obsolete: tuple[str, ...]) -> None:
    """Every table in its place; what an earlier end of this study left and this one has not is removed."""
    try:
        publish(folder, files, RUNS)
    except BadInput as error:
        raise BadInput(error.what, error.where, f"{error.why}; every run is kept, and --resume writes the tables") from error
    for name in obsolete:
        if name not in files:
            (folder / name).unlink(missing_ok=True)
    mine = {Path(name).parts[1] for name in files if Path(name).parts[0] == VLLM}
    for path in (folder / VLLM).iterdir() if (folder / VLLM).is_dir() else ():
        if path.is_dir() and path.name not in mine and {each.name for each in path.iterdir()} <= {"summary.json"}:
            shutil.rmtree(path)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """The directory for this process alone: BadInput while another has it. The kernel takes the lock back from whoever dies."""
    try:
        import fcntl
    except ImportError:         # Windows
        yield
        return
    file = folder / LOCK
    while True:
        try:
            held = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise unwritable(folder, error) from error
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(held)
            raise BadInput("output directory", str(folder), "another process is at work in it") from None
        with suppress(OSError):
            if os.stat(file).st_ino == os.fstat(held).st_ino:       # and not one that has just been given up
                break
        os.close(held)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(held)
