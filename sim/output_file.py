"""One new file: it is there whole or not at all, and nothing is ever overwritten."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from traces import BadInput

_WHAT = "output file"


@contextmanager
def new_file(target: Path) -> Iterator[BinaryIO]:
    """To write to; it gets its name when the block ends well. BadInput when the name is taken or nothing can be written there."""
    partial = target.parent / f".tokenflow-{token_hex(4)}.partial"
    try:
        _must_be_free(target)
        with partial.open("xb") as file:
            yield file
        _must_be_free(target)       # again: meanwhile someone may have come
        partial.rename(target)
    except BadInput:
        raise
    except (OSError, ValueError) as error:      # ValueError: a NUL in the name
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise BadInput(_WHAT, str(target), f"cannot be written: {why.lower()}") from error
    finally:
        with suppress(OSError, ValueError):
            partial.unlink()


def check(target: Path, endings: tuple[str, ...]) -> Path:
    """The target, if it can be made: BadInput before any work is done."""
    if not target.name.endswith(endings):
        raise BadInput(_WHAT, str(target) or "''", f"must end in {' or '.join(endings)}")
    _must_be_free(target)
    if not target.parent.is_dir():
        raise BadInput(_WHAT, str(target), "cannot be written: there is no such folder")
    return target


def _must_be_free(target: Path) -> None:
    if os.path.lexists(target):
        raise BadInput(_WHAT, str(target), "is there already; results are never overwritten")
