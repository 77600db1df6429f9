"""Finished runs, a line of JSON each: written one by one, so that what was done before a kill is there afterwards.

The first line says what wrote them. A last line that a kill cut short is done again; several lines of one key: the last holds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from traces import BadInput

Entry = dict[str, Any]      #: of a run; "key" says which


class Ledger:
    """One such file. `header`: its first line; of a file with another one no run is taken up."""

    def __init__(self, file: Path, header: Mapping[str, Any], resume: bool) -> None:
        self._file, self._header = file, header
        self.done: dict[str, Entry] = {}
        self._whole = self._read() if resume else 0     # bytes that stay

    def _read(self) -> int:
        text = self._file.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        try:
            first, *entries = [json.loads(line) for line in whole.splitlines()] or [dict(self._header)]
            differs = {name: first.get(name) for name, value in self._header.items() if first.get(name) != value}
            if "code" not in first:
                raise KeyError("code")
            if not differs:
                self.done = {entry["key"]: entry for entry in entries}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadInput("--resume", str(self._file), "is not what this command writes") from None
        if "format" in differs:
            raise BadInput("--resume", str(self._file), (
                f"is of format {differs['format']}, this version writes {self._header['format']}; begin anew elsewhere"))
        if "code" in differs:
            raise BadInput("--resume", str(self._file), "its runs are from other code than this; begin anew elsewhere")
        if "command" in differs:
            raise BadInput("--resume", str(self._file), f"is what another command has left: {differs['command']}")
        return len(whole)

    def __enter__(self) -> Self:
        with _one_line(self._file):
            self._out = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.ftruncate(self._out, self._whole)
            os.lseek(self._out, self._whole, os.SEEK_SET)
            if not self._whole:
                self._write(self._header)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        os.close(self._out)

    def keep(self, entry: Entry) -> None:
        """Kept when this returns, whatever happens then."""
        with _one_line(self._file):
            self._write(entry)
        self.done[entry["key"]] = entry

    def _write(self, entry: Mapping[str, Any]) -> None:
        left = memoryview(as_line(entry))
        while left:
            left = left[os.write(self._out, left):]
        os.fsync(self._out)

    def ordered(self, keys: Iterable[str]) -> bytes:
        """The whole file, its runs in this order."""
        return as_line(self._header) + b"".join(as_line(self.done[key]) for key in keys)


def as_line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, allow_nan=False).encode() + b"\n"


class _one_line:
    """A disk that is full, in one line."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if isinstance(error, OSError):
            why = (error.strerror or str(error)).lower()
            raise BadInput("output directory", str(self._file), (
                f"cannot be written: {why}; what was done before is kept, and --resume goes on")) from error
