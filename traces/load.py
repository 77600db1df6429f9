"""Read a trace file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from traces.cells import shown
from traces.errors import BadInput
from traces.rows import Row, bad_line, read_rows
from traces.schemas import Column, Schema, Value, recognise
from traces.trace import Floats, Trace, make_trace


def load_trace(path: str | os.PathLike[str]) -> Trace:
    """The trace in a CSV file, plain or gzipped, of any schema in `traces.schemas`; its kind is read off the header.

    Times are seconds: as they stand in our own schema, from the first request in Azure's. Rows without input or output
    tokens are failed requests: they are left out and counted in `Trace.dropped`. Anything else that cannot be used is a
    BadInput with the file, the line (the first is 1) and the reason.
    """
    file = os.fspath(path)
    with closing(read_rows(file)) as rows:
        names, schema = _header(file, rows)
        columns = [column for column in schema.columns if column.name in names]
        given, dropped = _arguments(file, rows, names, columns)
    if not given["arrival_s"]:
        counts = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
        raise BadInput("trace", file, f"no usable request: all rows were dropped, {counts}" if counts else "holds a header only")
    given["arrival_s"] = _seconds(schema, given["arrival_s"])
    return make_trace(**given, source=Path(file).name, dropped=dropped)


def _header(file: str, rows: Iterator[Row]) -> tuple[list[str], Schema]:
    """The column names in the file and the schema they belong to."""
    line, cells = next(rows, (0, []))
    if not cells:
        raise BadInput("trace", file, "the file is empty")
    names = [cell.strip() for cell in cells]
    try:
        return names, recognise(names)
    except ValueError as error:
        raise bad_line(file, line, str(error)) from None


def _arguments(
    file: str, rows: Iterator[Row], names: list[str], columns: list[Column]
) -> tuple[dict[str, Any], dict[str, int]]:
    """The lists of values of the usable rows, by argument of `make_trace`; and how many rows were dropped, by reason."""
    places = [names.index(column.name) for column in columns]
    given: dict[str, list[Any]] = {column.argument: [] for column in columns}
    failures = [(list(given).index(f"{kind}_tokens"), f"zero {kind} tokens") for kind in ("output", "input")]
    dropped: dict[str, int] = {}
    for line, cells in rows:
        if len(cells) != len(names):
            raise bad_line(file, line, f"has {len(cells)} fields, the header has {len(names)}")
        values = [_value(file, line, column, cells[place]) for column, place in zip(columns, places)]
        for index, failure in failures:
            if values[index] == 0:
                dropped[failure] = dropped.get(failure, 0) + 1
                break
        else:
            for value, of_column in zip(values, given.values()):
                of_column.append(value)
    return given, dropped


def _value(file: str, line: int, column: Column, cell: str) -> Value:
    """What one cell says."""
    text = cell.strip()
    try:
        if text:
            return column.parse(text)
        if column.empty is None:
            raise ValueError("is empty")
    except ValueError as error:
        raise bad_line(file, line, f"column {column.name}: {shown(cell)} {error}") from None
    return column.empty


def _seconds(schema: Schema, ticks: list[int] | list[float]) -> Floats:
    """Arrivals in seconds; integer ticks stay exact until the one division."""
    clock = np.asarray(ticks)
    seconds: Floats = (clock - clock.min() if schema.from_first else clock) / schema.ticks_per_s
    return seconds
