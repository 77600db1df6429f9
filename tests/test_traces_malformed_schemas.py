"""Files of every known kind, broken on purpose in every column and in their form: one line with file, line and reason each."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traces import BadInput, load_trace

HEADERS: dict[str, tuple[str, list[str]]] = {
    # kind: columns of time, input and output, then others; a good row
    "TokenFlow Lab": ("arrival_s,input_tokens,output_tokens,consume_tps", ["0.5", "10", "20", "15"]),
    "Azure": ("TIMESTAMP,ContextTokens,GeneratedTokens", ["2024-05-10 00:00:00.009930+00:00", "10", "20"]),
    "BurstGPT": ("Timestamp,Request tokens,Response tokens,Model,Total tokens,Log Type",
                 ["5", "10", "20", "GPT-4", "30", "API log"]),
    "Vidur": ("arrived_at,num_prefill_tokens,num_decode_tokens", ["0.5", "10", "20"]),
    "timed_trace": ("timestamp,input_length,output_length", ["0.5", "10", "20"]),
    "Mooncake": ("timestamp,input_length,output_length,hash_ids", ["27482", "10", "20", "[46, 47]"]),
    "timed_trace, JSON lines": ("timestamp,input_length,output_length", ["0.5", "10", "20"]),
    "Bailian": ("timestamp,input_length,output_length,chat_id", ["61.114", "10", "20", "159"]),
}
JSON_LINES = ("Mooncake", "Bailian", "timed_trace, JSON lines")
BAD_CELLS = {"": "is empty", "-1": "is negative", "NaN": "is NaN", "Infinity": "is infinite", "soon": "is not a number",
             "1e999": "is larger than 2**53", "1_0": "is not a number"}
BAD_COUNTS = {"2.5": "is not a whole number", "9007199254740994": "is larger than 2**53"}


def line_of(kind: str, cells: list[str]) -> str:
    if kind not in JSON_LINES:
        return ",".join(cells)
    pairs = zip(HEADERS[kind][0].split(","), cells)
    return "{" + ", ".join(f'"{name}": {cell if _is_json(cell) else json.dumps(cell)}' for name, cell in pairs) + "}"


def _is_json(cell: str) -> bool:
    try:
        json.loads(cell)
    except ValueError:
        return False
    return True


def text_of(kind: str, rows: list[list[str]]) -> str:
    header = [] if kind in JSON_LINES else [HEADERS[kind][0]]
    return "\n".join([*header, *(line_of(kind, row) for row in rows)]) + "\n"


def broken() -> Iterator[tuple[str, str, str, int, str]]:
    """Kind, what is wrong with it, content, number of the bad line, the reason given."""
    for kind, (header, good) in HEADERS.items():
        bad_line = 3 if kind in JSON_LINES else 4
        for place, name in enumerate(header.split(",")[:3]):
            reasons = BAD_CELLS if place == 0 else BAD_CELLS | BAD_COUNTS
            for cell, reason in reasons.items():
                why = "is not a UTC time" if kind == "Azure" and place == 0 and cell else reason
                row = [*good[:place], cell, *good[place + 1 :]]
                yield kind, f"{name} {cell!r}", text_of(kind, [good, good, row]), bad_line, f"column {name}: {cell!r} {why}"
        whole = text_of(kind, [good, good])
        if kind in JSON_LINES:
            time_and_input = good[:2]
            for what, line, reason in (
                ("cut short", whole.splitlines()[0][:-5], "is not JSON: "),
                ("no object", "[1, 2]", "is not a JSON object"),
                ("two on a line", whole.splitlines()[0] * 2, "is not JSON: Extra data"),
                ("a field twice", '{"timestamp": 1, "timestamp": 2}', "names a field of its JSON object twice"),
                ("a list for a number", line_of(kind, [*time_and_input, "[20]"]), "column output_length: holds a list"),
                ("an object for a number", line_of(kind, [*time_and_input, "{}"]), "column output_length: holds an object"),
                ("true for a number", line_of(kind, [*time_and_input, "true"]), "column output_length: 'true' is not a number"),
                ("a field missing", '{"timestamp": 1, "input_length": 2}', "column output_length: '' is empty"),
                ("nested", "[" * 100_000, "nested too deeply"),
            ):
                yield kind, what, whole + line + "\n", bad_line, reason
        else:
            fields = len(good)
            for what, line, reason in (
                ("a field too few", line_of(kind, good[:-1]), f"has {fields - 1} fields, the header has {fields}"),
                ("a field too many", line_of(kind, [*good, "1"]), f"has {fields + 1} fields, the header has {fields}"),
                ("an open quote", line_of(kind, ['"0', *good[1:]]), "is not CSV"),
            ):
                yield kind, what, whole + line + "\n", bad_line, reason
            missing = ",".join(name for place, name in enumerate(header.split(",")) if place != 1)
            yield kind, "a column missing", f"{missing}\n1,2\n", 1, "no known schema"
            yield kind, "a column twice", f"{header},{header.split(',')[2]}\n", 1, "appears more than once"


BROKEN = list(broken())


def test_there_are_enough_of_them() -> None:
    assert len({content for _, _, content, _, _ in BROKEN}) >= 190


def refused(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        load_trace(path)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(("kind", "what", "content", "line", "reason"), BROKEN, ids=[f"{kind}-{what}" for kind, what, *_ in BROKEN])
def test_one_line_says_where_and_why(
    tmp_path: Path, kind: str, what: str, content: str, line: int, reason: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "broken"
    path.write_bytes(pack(content.encode()))
    message = refused(path)
    assert message.startswith(f"trace: {path}, line {line}: ")
    assert reason in message


@pytest.mark.parametrize("kind", HEADERS)
def test_the_unbroken_ones_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "good"
    path.write_text(text_of(kind, [HEADERS[kind][1]] * 3))
    assert len(load_trace(path)) == 3


def test_json_lines_whose_requests_all_failed(tmp_path: Path) -> None:
    path = tmp_path / "failed.jsonl"
    path.write_text('{"timestamp": 1, "input_length": 2, "output_length": 0}\n')
    assert "no usable request: all rows were dropped, 1 with zero output tokens" in refused(path)


@pytest.mark.parametrize("first", ['{"when": 1}', "{}", '{"timestamp": 1, "input_tokens": 2, "output_tokens": 2}'])
def test_json_lines_of_another_kind(tmp_path: Path, first: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text("\n" + first + "\n")
    message = refused(path)
    assert "other.jsonl, line 2: no known schema" in message
    assert "Mooncake (hash_ids, timestamp, input_length, output_length)" in message


fuzzed = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
kinds = st.sampled_from(sorted(HEADERS))
cells = st.sampled_from(["", "0", "-1", "1e308", "1e-320", "nan", "9" * 400, "true", "null", "{}", "[", '"', "\\u0000", "\x00"])


def loads_or_refuses(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        assert len(load_trace(path)) > 0
    except BadInput as error:
        message = str(error)
        assert message.splitlines() == [message]
        assert path.name in message


@given(kind=kinds, edits=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), cells | st.text(max_size=5)), max_size=4))
@fuzzed
def test_any_cells(tmp_path: Path, kind: str, edits: list[tuple[int, int, str]]) -> None:
    rows = [list(HEADERS[kind][1]) for _ in range(3)]
    for row, place, cell in edits:
        rows[row][place % len(rows[row])] = cell
    loads_or_refuses(tmp_path / "damaged", text_of(kind, rows).encode("utf-8", "surrogatepass"))


@given(kind=kinds, edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), st.binary(max_size=4)), min_size=1, max_size=6),
       pack=st.sampled_from([bytes, gzip.compress]))
@fuzzed
def test_any_bytes(tmp_path: Path, kind: str, edits: list[tuple[float, int, bytes]], pack: Any) -> None:
    content = text_of(kind, [HEADERS[kind][1]] * 3).encode()
    for where, removed, added in edits:
        at = int(where * len(content))
        content = content[:at] + added + content[at + removed :]
    loads_or_refuses(tmp_path / "damaged", pack(content))


json_values = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4),
                           lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2))
names = st.sampled_from(["timestamp", "input_length", "output_length", "session_id", "hash_ids", "chat_id", "type"])


@given(objects=st.lists(st.dictionaries(names, json_values) | json_values, min_size=1, max_size=3))
@fuzzed
def test_any_json(tmp_path: Path, objects: list[Any]) -> None:
    good = {"timestamp": 1, "input_length": 1, "output_length": 1}
    lines = [json.dumps(good | found if isinstance(found, dict) else found) for found in objects]
    loads_or_refuses(tmp_path / "any.jsonl", "\n".join(lines).encode())


@pytest.mark.parametrize(("name", "value", "holds"), [("session_id", '{"id": 3}', "an object"), ("session_id", "[3]", "a list")])
def test_a_name_is_not_an_object(name: str, value: str, holds: str, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(f'{{"timestamp": 1, "input_length": 2, "output_length": 3, "hash_ids": [1], "{name}": {value}}}\n')
    with pytest.raises(BadInput, match=f"m.jsonl, line 1: column {name}: holds {holds}$"):
        load_trace(path)
