"""The trace files we read: which columns each has, what a cell means, where its clock starts. A new kind is one entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan

from traces import cells

Value = float | int | bool | str


@dataclass(frozen=True)
class Column:
    """One column of a file, and the argument of `make_trace` that it becomes."""

    name: str
    argument: str
    parse: Callable[[str], Value]
    empty: Value | None = None      #: what an empty cell means; None: the column and every cell of it are required


@dataclass(frozen=True)
class Schema:
    """One kind of file. A header that holds all required columns, in any order, is of this kind."""

    name: str
    columns: tuple[Column, ...]
    ticks_per_s: int = 1            #: unit of the arrival column
    from_first: bool = False        #: arrivals are counted from the first request kept; else they are taken as they are
    closed: bool = False            #: a column not listed is an error, so that a typo in an optional one is not lost

    def required(self) -> list[str]:
        """Names of the columns that make a file one of this kind."""
        return [column.name for column in self.columns if column.empty is None]


OURS = Schema(
    "TokenFlow Lab",
    (
        Column("arrival_s", "arrival_s", cells.zero_or_more),
        Column("input_tokens", "input_tokens", cells.count),
        Column("output_tokens", "output_tokens", cells.count),
        Column("consume_tps", "consume_tps", cells.positive, empty=nan),
        Column("model", "model", cells.name, empty=""),
        Column("session", "session", cells.name, empty=""),
        Column("class", "klass", cells.name, empty=""),
        Column("ttft_slo_ms", "ttft_slo_s", cells.seconds_from_ms, empty=nan),
        Column("tpot_slo_ms", "tpot_slo_s", cells.seconds_from_ms, empty=nan),
        Column("priority", "priority", cells.positive, empty=1.0),
        Column("reader", "reader", cells.yes_or_no, empty=True),
    ),
    closed=True,
)
AZURE = Schema(
    "Azure LLM inference",
    (
        Column("TIMESTAMP", "arrival_s", cells.utc_ticks),
        Column("ContextTokens", "input_tokens", cells.count),
        Column("GeneratedTokens", "output_tokens", cells.count),
    ),
    ticks_per_s=cells.TICKS_PER_S,
    from_first=True,
)
SCHEMAS = (OURS, AZURE)


def recognise(found: Sequence[str]) -> Schema:
    """The schema of a header with these column names. ValueError says what is wrong with the header."""
    twice = sorted({name for name in found if name and found.count(name) > 1})
    if twice:
        raise ValueError(f"column {cells.shown(twice[0])} appears more than once")
    for schema in SCHEMAS:
        if set(schema.required()) <= set(found):
            break
    else:
        known = "; ".join(f"{schema.name} ({', '.join(schema.required())})" for schema in SCHEMAS)
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise ValueError(f"no known schema: columns found {', '.join(map(cells.shown, found[:8]))}{more}; known: {known}")
    unknown = [name for name in found if name not in {column.name for column in schema.columns}]
    if schema.closed and unknown:
        allowed = ", ".join(column.name for column in schema.columns if column.empty is not None)
        raise ValueError(f"unknown column {', '.join(map(cells.shown, unknown[:8]))}; optional columns are {allowed}")
    return schema
