"""Read a trace file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from traces.cells import shown
from traces.errors import BadInput
from traces.rows import bad_line
from traces.schemas import LENGTHS, SCHEMAS, Column, Schema, Value, by_stamps, recognise
from traces.tables import Table, open_table
from traces.trace import Floats, Ints, Trace, make_trace

Lists = dict[str, list[Any]]    #: of values, by argument of `make_trace`

UNITS = {"s": 1, "ms": 1000}    #: of time, in a second


def load_trace(path: str | os.PathLike[str], time_unit: str | None = None) -> Trace:
    """The trace in a CSV or JSON lines file, plain or gzipped, of any schema in `traces.schemas`, which its column names tell.

    Times are seconds: as they stand in the file, but from the first request where the file gives dates (Azure). Rows
    without input or output tokens are failed requests: they are left out and counted in `Trace.dropped`. Anything else
    that cannot be used is a BadInput with the file, the line (the first is 1) and the reason.

    `time_unit`, "s" or "ms", is for Mooncake's and vLLM's files, where it is not always plain; what they were read as
    stands in `Trace.source`.
    """
    if time_unit is not None and time_unit not in UNITS:
        raise BadInput("--time-unit", repr(time_unit), "must be s or ms")
    file = _path(path)
    schema, given, dropped = _read(file, SCHEMAS)
    stamps = given.pop("arrival_s")
    if time_unit is None:
        schema = by_stamps(schema, stamps)
    ticks_per_s, source = schema.ticks_per_s, Path(file).name
    if schema.any_unit:
        ticks_per_s = UNITS[time_unit] if time_unit else ticks_per_s
        source += f" (read as {schema.name}, {'milliseconds' if ticks_per_s == 1000 else 'seconds'})"
    elif time_unit:
        raise BadInput("--time-unit", time_unit, f"{file} is of the kind {schema.name}, whose unit of time is known")
    return make_trace(_since(stamps, schema.from_first) / ticks_per_s, **given, source=source, dropped=dropped)


def load_lengths(path: str | os.PathLike[str]) -> Ints:
    """Prompt and output tokens of every usable request, shape (n, 2), of a trace or of a file without arrivals."""
    _, given, _ = _read(_path(path), (*SCHEMAS, LENGTHS))
    return np.column_stack([np.asarray(given["input_tokens"]), np.asarray(given["output_tokens"])]).astype(np.int64)


def _path(path: str | os.PathLike[str]) -> str:
    file = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(file, str):
        raise BadInput("trace", shown(path), "is not the path of a file")
    return file


def _read(file: str, schemas: Sequence[Schema]) -> tuple[Schema, Lists, dict[str, int]]:
    """The file's schema, what its usable rows say, and how many rows were dropped, by reason."""
    with open_table(file) as table:
        try:
            schema = recognise(table.names, table.jsonl, schemas)
        except ValueError as error:
            raise bad_line(file, table.line, str(error)) from None
        columns = [column for column in schema.columns if table.jsonl or column.name in table.names]
        given, dropped = _arguments(file, table, columns)
    if not given["input_tokens"]:
        counts = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
        raise BadInput("trace", file, f"no usable request: all rows were dropped, {counts}" if counts else "holds a header only")
    return schema, given, dropped


def _arguments(file: str, table: Table, columns: list[Column]) -> tuple[Lists, dict[str, int]]:
    """What the usable rows say; and how many rows were dropped, by reason."""
    given: Lists = {column.argument: [] for column in columns}
    failures = [(list(given).index(f"{kind}_tokens"), f"zero {kind} tokens") for kind in ("output", "input")]
    dropped: dict[str, int] = {}
    for line, cells in table.rows([column.name for column in columns]):
        values = [_value(file, line, column, cell) for column, cell in zip(columns, cells)]
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


def _since(ticks: list[int] | list[float], from_first: bool) -> Floats | Ints:
    """Arrivals as the file counts them, or from the first; integer ticks stay exact."""
    clock = np.asarray(ticks)
    since: Floats | Ints = clock - clock.min() if from_first else clock
    return since
