"""The trace files we read: which columns each has, what a cell means, where its clock starts. A new kind is one entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan

from traces import cells, pace

Value = float | int | bool | str | pace.Pace


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
    any_unit: bool = False          #: some files of this kind have another: `load_trace(time_unit=)` comes first
    from_first: bool = False        #: arrivals are counted from the first request kept; else they are taken as they are
    jsonl: bool = False             #: an object a line; else CSV
    marks: tuple[str, ...] = ()     #: further columns that tell a file of this kind, and are not read
    closed: bool = False            #: a column not listed is an error, so that a typo in an optional one is not lost

    def required(self) -> list[str]:
        """Names of the columns that make a file one of this kind."""
        return [*self.marks, *(column.name for column in self.columns if column.empty is None)]


OURS = Schema(
    "TokenFlow Lab",
    (
        Column("arrival_s", "arrival_s", cells.zero_or_more),
        Column("input_tokens", "input_tokens", cells.count),
        Column("output_tokens", "output_tokens", cells.count),
        Column("consume_tps", "consume_tps", pace.parse, empty=nan),
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
BURSTGPT = Schema(
    "BurstGPT",         # github.com/HPMLL/BurstGPT; seconds. Total tokens and elapsed time say nothing new
    (
        Column("Timestamp", "arrival_s", cells.zero_or_more),
        Column("Request tokens", "input_tokens", cells.count),
        Column("Response tokens", "output_tokens", cells.count),
        Column("Model", "model", cells.name, empty=""),
        Column("Session ID", "session", cells.name, empty=""),
        Column("Log Type", "klass", cells.name, empty=""),
    ),
)
VIDUR = Schema(
    "Vidur",            # github.com/microsoft/vidur, trace replay; seconds
    (
        Column("arrived_at", "arrival_s", cells.zero_or_more),
        Column("num_prefill_tokens", "input_tokens", cells.count),
        Column("num_decode_tokens", "output_tokens", cells.count),
    ),
)
_TIMED = (
    Column("timestamp", "arrival_s", cells.zero_or_more),
    Column("input_length", "input_tokens", cells.count),
    Column("output_length", "output_tokens", cells.count),
)
TIMED_CSV = Schema("vLLM timed_trace", _TIMED, any_unit=True)
BAILIAN = Schema(
    "Qwen-Bailian",     # github.com/alibaba-edu/qwen-bailian-usagetraces-anon: Mooncake's fields, but seconds
    (*_TIMED, Column("type", "klass", cells.name, empty="")),
    jsonl=True,
    marks=("chat_id",),
)
_IN_SESSIONS = (*_TIMED, Column("session_id", "session", cells.name, empty=""))     # AIPerf's column
MOONCAKE = Schema("Mooncake", _IN_SESSIONS, 1000, any_unit=True, jsonl=True, marks=("hash_ids",))   # github.com/kvcache-ai/Mooncake
TIMED_TRACE = Schema(
    "vLLM timed_trace",     # `vllm bench serve --dataset-name timed_trace`; seconds unless --timed-trace-sec-multiplier is given
    _IN_SESSIONS,
    any_unit=True,
    jsonl=True,
)
SCHEMAS = (OURS, AZURE, BURSTGPT, VIDUR, TIMED_CSV, BAILIAN, MOONCAKE, TIMED_TRACE)

#: prompts and outputs without a clock: no trace, but something to draw lengths from
LENGTHS = Schema("lengths", OURS.columns[1:3])


def by_stamps(schema: Schema, stamps: Sequence[float]) -> Schema:
    """Mooncake and vLLM share their fields: hash_ids and whole numbers are Mooncake's milliseconds, a fraction means seconds."""
    return TIMED_TRACE if schema is MOONCAKE and any(stamp % 1 for stamp in stamps) else schema


def recognise(found: Sequence[str], jsonl: bool = False, schemas: Sequence[Schema] = SCHEMAS) -> Schema:
    """The first schema that a header with these column names fits. ValueError says what is wrong with the header."""
    twice = sorted({name for name in found if name and found.count(name) > 1})
    if twice:
        raise ValueError(f"column {cells.shown(twice[0])} appears more than once")
    schemas = [schema for schema in schemas if schema.jsonl == jsonl]
    for schema in schemas:
        if set(schema.required()) <= set(found):
            break
    else:
        known = "; ".join(f"{schema.name} ({', '.join(schema.required())})" for schema in schemas)
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise ValueError(f"no known schema: columns found {', '.join(map(cells.shown, found[:8]))}{more}; known: {known}")
    unknown = [name for name in found if name not in {column.name for column in schema.columns}]
    if schema.closed and unknown:
        allowed = ", ".join(column.name for column in schema.columns if column.empty is not None)
        raise ValueError(f"unknown column {', '.join(map(cells.shown, unknown[:8]))}; optional columns are {allowed}")
    return schema
