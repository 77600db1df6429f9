"""Write a trace in our own CSV schema."""

from __future__ import annotations

import csv
import gzip
import io
import os
from contextlib import suppress
from decimal import Decimal
from math import isnan
from pathlib import Path
from secrets import token_hex

from traces.cells import shown
from traces.errors import BadInput
from traces.pace import joined
from traces.schemas import OURS, Column, Value
from traces.trace import Trace

_MILLISECONDS = ("ttft_slo_ms", "tpot_slo_ms")


def write_trace(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write `trace` to `path`, gzipped when it ends in .gz; `load_trace` gives the same arrays back, bit for bit.

    Optional columns appear only when a request has a value for them. The same trace gives the same bytes. The file is
    there whole or not at all. BadInput when it cannot be written.
    """
    target = Path(path)
    content = _csv(trace)
    if target.name.lower().endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    partial = target.parent / f".{target.name}.{token_hex(4)}.partial"
    try:
        with partial.open("xb") as file:
            file.write(content)
        partial.replace(target)
    except OSError as error:
        raise BadInput("trace", str(target), f"cannot be written: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise BadInput("trace", shown(str(target)), f"is not a file name: {error}") from None
    finally:
        with suppress(OSError, ValueError):
            partial.unlink()


def _csv(trace: Trace) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    columns = {column.name: cells for column in OURS.columns if (cells := _cells(trace, column))}
    writer.writerow(columns)
    writer.writerows(zip(*columns.values()))
    return text.getvalue().encode()


def _cells(trace: Trace, column: Column) -> list[str]:
    """The cells of one column; none when it is optional and every request leaves it empty."""
    rates = column.argument == "consume_tps"
    values = joined(trace.consume_tps, trace.rate_changes) if rates else getattr(trace, column.argument).tolist()
    cells = [_cell(column, value) for value in values]
    return cells if column.empty is None or any(cells) else []


def _cell(column: Column, value: Value) -> str:
    """The shortest text that reads back as `value`."""
    if value == column.empty or (isinstance(value, float) and isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if column.name in _MILLISECONDS:
        return format(Decimal(repr(value)).scaleb(3), "f")
    return str(value)
