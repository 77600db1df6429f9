"""Read a trace file."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from traces.cells import shown
from traces.errors import BadInput
from traces.rows import bad_line, read_rows
from traces.schemas import Column, Schema, Value, recognise
from traces.trace import Trace, make_trace


def load_trace(path: str | os.PathLike[str]) -> Trace:
    """The trace in a CSV file, plain or gzipped, of any schema in `traces.schemas`; its kind is read off the header.

    Times are seconds: as they stand in our own schema, from the first request in Azure's. Rows without input or output
    tokens are failed requests: they are left out and counted in `Trace.dropped`. Anything else that cannot be used is a
    BadInput with the file, the line (the first is 1) and the reason.
    """
    file = os.fspath(path)
    with closing(read_rows(file)) as rows:
        line, header = next(rows, (0, None))
        if header is None:
            raise BadInput("trace", file, "the file is empty")
        found = [name.strip() for name in header]
        try:
            schema = recognise(found)
        except ValueError as error:
            raise bad_line(file, line, str(error)) from None
        columns = [(found.index(column.name), column) for column in schema.columns if column.name in found]
        arguments = [column.argument for _, column in columns]
        input_at, output_at = arguments.index("input_tokens"), arguments.index("output_tokens")
        kept: list[list[Value]] = []
        dropped: dict[str, int] = {}
        for line, row in rows:
            if len(row) != len(found):
                raise bad_line(file, line, f"has {len(row)} fields, the header has {len(found)}")
            values = [_value(file, line, column, row[index]) for index, column in columns]
            if values[input_at] and values[output_at]:
                kept.append(values)
            else:
                reason = "zero input tokens" if values[output_at] else "zero output tokens"
                dropped[reason] = dropped.get(reason, 0) + 1
    if not kept:
        rows_dropped = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
        raise BadInput("trace", file, f"no usable request: every row was dropped ({rows_dropped})" if dropped else "has a header only")
    given: dict[str, Any] = dict(zip(arguments, zip(*kept)))
    given["arrival_s"] = _seconds(schema, given["arrival_s"])
    return make_trace(**given, source=Path(file).name, dropped=dropped)


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


def _seconds(schema: Schema, ticks: tuple[Value, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Arrivals in seconds; integer ticks stay exact until the one division."""
    clock = np.asarray(ticks)
    if schema.from_first:
        clock = clock - clock.min()
    seconds: np.ndarray[Any, np.dtype[np.float64]] = clock / schema.ticks_per_s
    return seconds
