"""A trace file as a table: the names of its columns, and the cells of those that are wanted, row by row; CSV or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from typing import Any, ClassVar, Protocol

from traces.errors import BadInput
from traces.rows import bad_line, read_lines

Row = tuple[int, Sequence[str]]     #: the line a row starts on, and its cells


class Table(Protocol):
    """What both kinds of file give."""

    jsonl: ClassVar[bool]
    line: int           #: on which the names stand
    names: list[str]    #: of the columns; in JSON lines those of the first object, others may follow

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        """The cells of these columns, in this order. BadInput says which line cannot be read and why."""


@contextmanager
def open_table(path: str) -> Iterator[Table]:
    """The table in a file, of the kind that its first character says."""
    with closing(read_lines(path)) as lines:
        skipped = []
        for text in lines:
            skipped.append(text)
            if text.strip():
                break
        else:
            raise BadInput("trace", path, "the file is empty")
        kind = _JsonLines if text.lstrip().startswith("{") else _Csv
        yield kind(path, chain(skipped, lines))


class _Csv:
    jsonl: ClassVar[bool] = False

    def __init__(self, path: str, lines: Iterator[str]) -> None:
        self._path = path
        self._reader = csv.reader(lines, strict=True)
        self.line, header = next(self._records())
        self.names = [cell.strip() for cell in header]

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        places = [self.names.index(name) for name in wanted]
        for line, cells in self._records():
            if len(cells) != len(self.names):
                raise bad_line(self._path, line, f"has {len(cells)} fields, the header has {len(self.names)}")
            yield line, [cells[place] for place in places]

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Rows that are not blank, from where the file stands now."""
        while True:
            line = self._reader.line_num + 1
            try:
                row = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise bad_line(self._path, line, f"is not CSV: {error}") from None
            if row:
                yield line, row


class _JsonLines:
    jsonl: ClassVar[bool] = True

    def __init__(self, path: str, lines: Iterator[str]) -> None:
        self._path = path
        self._objects = self._read(lines)
        first = next(self._objects)
        self.line, self.names = first[0], list(first[1])
        self._objects = chain([first], self._objects)

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        for line, found in self._objects:
            values = [found.get(name) for name in wanted]
            for name, value in zip(wanted, values):
                if isinstance(value, (dict, list)):
                    raise bad_line(self._path, line, f"column {name}: holds {'an object' if isinstance(value, dict) else 'a list'}")
            yield line, list(map(_cell, values))

    def _read(self, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        for line, text in enumerate(lines, 1):
            if not text.strip():
                continue
            try:
                found = json.loads(text, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_object)
            except json.JSONDecodeError as error:
                raise bad_line(self._path, line, f"is not JSON: {error.msg} at character {error.pos + 1}") from None
            except RecursionError:
                raise bad_line(self._path, line, "is not JSON of a trace: nested too deeply") from None
            except ValueError as error:
                raise bad_line(self._path, line, str(error)) from None
            if not isinstance(found, dict):
                raise bad_line(self._path, line, "is not a JSON object")
            yield line, found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("names a field of its JSON object twice")
    return found


def _cell(value: Any) -> str:
    """As the text that a CSV file would hold; numbers have kept theirs, so that all cells are parsed by the same rules."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return ""
