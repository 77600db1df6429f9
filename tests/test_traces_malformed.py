"""Trace files that cannot be read: one line each that names the file, the line and the reason; never another exception."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import traces.rows
from traces import BadInput, load_trace

OURS = "arrival_s,input_tokens,output_tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
T = "2023-11-16 18:15:46.6805900"


def with_column(name: str, cell: str) -> str:
    return f"arrival_s,input_tokens,output_tokens,{name}\n0,1,1,\n1,1,1,{cell}\n"


MALFORMED: list[tuple[str | bytes, int | None, str]] = [
    # content, line (None: the file as a whole), phrase
    ("", None, "the file is empty"),
    ("\n\n", None, "the file is empty"),
    (b"\xef\xbb\xbf", None, "the file is empty"),
    (gzip.compress(b""), None, "the file is empty"),
    (OURS, None, "holds a header only"),
    (AZURE, None, "holds a header only"),
    (OURS + "0,1,0\n1,0,1\n2,0,0\n", None, "all rows were dropped, 2 with zero output tokens, 1 with zero input tokens"),
    ("a,b,c\n1,2,3\n", 1, "columns found 'a', 'b', 'c'; known: TokenFlow Lab (arrival_s, input_tokens, output_tokens)"),
    ("input_tokens,output_tokens\n1,2\n", 1, "no known schema: columns found 'input_tokens', 'output_tokens'"),
    ("TIMESTAMP,ContextTokens\n1,2\n", 1, "Azure LLM inference (TIMESTAMP, ContextTokens, GeneratedTokens)"),
    ("arrival_s;input_tokens;output_tokens\n0;1;1\n", 1, "columns found 'arrival_s;input_tokens;output_tokens'"),
    ("0,374,44\n1,396,109\n", 1, "columns found '0', '374', '44'"),
    (",".join("abcdefghijkl") + "\n", 1, "'h' and 4 more; known"),
    ('{"timestamp": 0, "input_length": 1}\n', 1, "no known schema"),
    ("arrival_s,input_tokens,input_tokens,output_tokens\n0,1,1,1\n", 1, "column 'input_tokens' appears more than once"),
    (with_column("consume_rate", "20"), 1, "unknown column 'consume_rate'; optional columns are consume_tps, model, session"),
    ("arrival_s,input_tokens,output_tokens,\n0,1,1,\n", 1, "unknown column ''"),
    (OURS + "0,1,1\n1,1\n", 3, "has 2 fields, the header has 3"),
    (OURS + "0,1,1\n1,1,1,1\n", 3, "has 4 fields, the header has 3"),
    (OURS + "0,1,1\n\n\n1,1,1,1\n", 5, "has 4 fields"),
    (OURS + "0,1,1\n   \n", 3, "has 1 fields"),
    (OURS + "zero,1,1\n", 2, "column arrival_s: 'zero' is not a number"),
    (OURS + "0,1,1\n1_0,1,1\n", 3, "column arrival_s: '1_0' is not a number"),
    (OURS + "0,1,1\n\u0661,1,1\n", 3, "is not a number"),
    (OURS + "0,1,1\n0x10,1,1\n", 3, "'0x10' is not a number"),
    (OURS + ",1,1\n", 2, "column arrival_s: '' is empty"),
    (OURS + "0, ,1\n", 2, "column input_tokens: ' ' is empty"),
    (OURS + "nan,1,1\n", 2, "column arrival_s: 'nan' is NaN"),
    (OURS + "0,1,NaN\n", 2, "column output_tokens: 'NaN' is NaN"),
    (OURS + "inf,1,1\n", 2, "column arrival_s: 'inf' is infinite"),
    (OURS + "0,-Infinity,1\n", 2, "column input_tokens: '-Infinity' is infinite"),
    (OURS + "1e999,1,1\n", 2, "column arrival_s: '1e999' is larger than 2**53"),
    (OURS + "-0.001,1,1\n", 2, "column arrival_s: '-0.001' is negative"),
    (OURS + "0,-5,1\n", 2, "column input_tokens: '-5' is negative"),
    (OURS + "0,5,-1.0\n", 2, "column output_tokens: '-1.0' is negative"),
    (OURS + "0,12.5,1\n", 2, "column input_tokens: '12.5' is not a whole number"),
    (OURS + "0,9007199254740994,1\n", 2, "is larger than 2**53"),
    (OURS + "0,1," + "9" * 5000 + "\n", 2, "column output_tokens: '999"),
    (OURS + '0,1,"1\n', 2, "not CSV: unexpected end of data"),
    (OURS + '0,1,1\n0,1,"1"1\n', 3, "not CSV: ',' expected after '\"'"),
    (OURS + "0,1,1\r1,1,1\r", 2, "not CSV: new-line character"),
    (OURS + "0,1," + "x" * 200_000, 2, "not CSV: field larger than field limit"),
    (OURS + "0,1," + "x" * 2_000_000, 2, "is longer than 1048576 bytes"),
    (OURS + "0,1,1\x00\n", 2, "column output_tokens: '1\\x00' is not a number"),
    (OURS.encode() + b"0,1,1\n0,1,\xff\n", 3, "is not UTF-8 text: byte 0xff at 5"),
    (OURS.encode("utf-16"), 1, "is not UTF-8 text: byte 0xff at 1"),
    (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", 1, "is not UTF-8 text"),
    (gzip.compress((OURS + "0,1,1\n" * 9999).encode())[:60], None, "the gzip data end early: the file is truncated"),
    (gzip.compress(OURS.encode())[:12], 1, "the gzip data end early"),
    (gzip.compress(OURS.encode())[:-8] + b"\0" * 8, None, "CRC check failed"),
    (b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 80, 1, "cannot be read"),
    (b"\x1f\x8b", 1, "the gzip data end early"),
    (with_column("consume_tps", "0"), 3, "column consume_tps: '0' must be above 0"),
    (with_column("consume_tps", "-3"), 3, "column consume_tps: '-3' must be above 0"),
    (with_column("consume_tps", "fast"), 3, "column consume_tps: 'fast' is not a number"),
    (with_column("consume_tps", "nan"), 3, "column consume_tps: 'nan' is NaN"),
    (with_column("priority", "-1"), 3, "column priority: '-1' must be above 0"),
    (with_column("ttft_slo_ms", "0"), 3, "column ttft_slo_ms: '0' must be above 0"),
    (with_column("tpot_slo_ms", "50ms"), 3, "column tpot_slo_ms: '50ms' is not a number"),
    (with_column("tpot_slo_ms", "1e-" + "9" * 5000), 3, "column tpot_slo_ms: '1e-999"),
    (with_column("reader", "maybe"), 3, "column reader: 'maybe' is none of true, false"),
    (with_column("model", "a\x07b"), 3, "column model: 'a\\x07b' holds a control character"),
    (with_column("session", '"a\nb"'), 3, "column session: 'a\\nb' holds a control character"),
    (with_column("class", "x" * 1001), 3, "is longer than 1000 characters"),
    (AZURE + f"{T},1,1\nyesterday,1,1\n", 3, "column TIMESTAMP: 'yesterday' is not a UTC time such as 2023-11-16"),
    (AZURE + f"{T},1,1\n2023-13-16 18:15:46,1,1\n", 3, "is not a UTC time"),
    (AZURE + f"{T}+02:00,1,1\n", 2, "is not a UTC time"),
    (AZURE + "1700158546.68,1,1\n", 2, "is not a UTC time"),
    (AZURE + f"{T},1.5,1\n", 2, "column ContextTokens: '1.5' is not a whole number"),
    (AZURE + f"{T},1,-1\n", 2, "column GeneratedTokens: '-1' is negative"),
]


def refused(path: Path) -> str:
    """The one line with which the file is refused."""
    with pytest.raises(BadInput) as caught:
        load_trace(path)
    line = str(caught.value)
    assert line.splitlines() == [line]
    assert path.name in line
    return line


@pytest.mark.parametrize(("content", "line", "phrase"), MALFORMED, ids=[phrase for _, _, phrase in MALFORMED])
def test_malformed(tmp_path: Path, content: str | bytes, line: int | None, phrase: str) -> None:
    path = tmp_path / "broken.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    message = refused(path)
    assert phrase in message
    if line is not None:
        assert f"broken.csv, line {line}: " in message


def test_a_plain_file_named_gz(tmp_path: Path) -> None:
    path = tmp_path / "plain.csv.gz"
    path.write_text(OURS + "0,1,1\n")
    assert "is named .gz but is not gzip" in refused(path)


def test_a_missing_file(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "missing.csv")


def test_a_directory(tmp_path: Path) -> None:
    assert "is a directory" in refused(tmp_path)


def test_a_file_as_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "not a directory" in refused(tmp_path / "file" / "trace.csv")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, mode: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(traces.rows, "open", refuse, raising=False)  # chmod would not stop root, whom CI may be
    assert "permission denied" in refused(tmp_path / "secret.csv")


def test_a_name_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a file name"):
        load_trace("a\0b")


VALID = [
    (OURS + "0.5,10,20\n0.75,11,21\n1,12,22\n").encode(),
    (
        b"arrival_s,input_tokens,output_tokens,consume_tps,model,session,class,ttft_slo_ms,tpot_slo_ms,priority,reader\n"
        b"0.5,10,20,15,llama,s1,chat,1300,50.5,2,yes\n0.75,11,21,,,,,,,,\n"
    ),
    (AZURE + f"{T},374,44\n{T}+00:00,396,109\n").encode(),
]
CELLS = ["", "0", "-1", "1e308", "1e-320", "nan", "inf", "12.5", "9" * 400, "0x1", "true", '"', "a,b", "\n", "\x00", "\ufeff", "²"]


def loads_or_refuses(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        assert len(load_trace(path)) > 0
        return
    except BadInput as error:
        message = str(error)
    assert message.splitlines() == [message]
    assert path.name in message


fuzzed = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(
    valid=st.sampled_from(VALID),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 2), st.binary(max_size=4)), min_size=1, max_size=6),
    pack=st.sampled_from([bytes, gzip.compress]),
    unpacked=st.booleans(),
)
@fuzzed
def test_any_damaged_bytes(
    tmp_path: Path, valid: bytes, edits: list[tuple[float, int, bytes]], pack: Callable[[bytes], bytes], unpacked: bool
) -> None:
    content = valid if unpacked else pack(valid)
    for where, removed, added in edits:
        at = int(where * len(content))
        content = content[:at] + added + content[at + removed :]
    loads_or_refuses(tmp_path / "damaged.csv", pack(content) if unpacked else content)


@given(
    valid=st.sampled_from(VALID),
    edits=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99), st.sampled_from(CELLS) | st.text(max_size=5)), max_size=4),
)
@fuzzed
def test_any_damaged_cells(tmp_path: Path, valid: bytes, edits: list[tuple[int, int, str]]) -> None:
    rows = [line.split(",") for line in valid.decode().splitlines()]
    for row, column, cell in edits:
        cells = rows[row % len(rows)]
        cells[column % len(cells)] = cell
    text = "\n".join(",".join(row) for row in rows)
    loads_or_refuses(tmp_path / "damaged.csv", text.encode())


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@fuzzed
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    loads_or_refuses(tmp_path / "noise.csv", content)
    loads_or_refuses(tmp_path / "noise.csv", b"\x1f\x8b" + content)
    loads_or_refuses(tmp_path / "noise.csv", OURS.encode() + content)
