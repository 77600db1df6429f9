"""Trace files that can be read: schemas, packing, order, optional columns, dropped rows; and the public Azure trace."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from traces import Trace, load_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-17 00:00:00.0000001,879,55
"""
OURS = """arrival_s,input_tokens,output_tokens,consume_tps,model,session,class,ttft_slo_ms,tpot_slo_ms,priority,reader
0.5,10,20,15,llama,s1,chat,1300,50.5,2,yes
0.75,11,21,,,,,,,,
1e0,12.0,2.2e1,8.5,qwen,s1,voice,250,100,0.5,FALSE
"""


def write(folder: Path, text: str | bytes, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def assert_same(one: Trace, other: Trace) -> None:
    for f in fields(one):
        if f.name not in ("source", "dropped"):
            a, b = getattr(one, f.name), getattr(other, f.name)
            np.testing.assert_array_equal(a, b, err_msg=f.name)
            assert a.dtype == b.dtype, f.name


def test_azure_times_are_exact_and_count_from_the_first_request(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path, AZURE))
    assert trace.arrival_s.tolist() == [0.0, 4.314579, 20653.3194101]
    assert trace.input_tokens.tolist() == [374, 396, 879]
    assert trace.output_tokens.tolist() == [44, 109, 55]
    assert np.isnan(trace.consume_tps).all()
    assert trace.reader.all()
    assert trace.source == "trace.csv"


@pytest.mark.parametrize("suffix", ["+00:00", "Z"])
def test_azure_2024_times_name_their_zone(tmp_path: Path, suffix: str) -> None:
    rows = [line.split(",") for line in AZURE.splitlines()]
    text = "\n".join(",".join([row[0] + (suffix if index else ""), *row[1:]]) for index, row in enumerate(rows))
    assert_same(load_trace(write(tmp_path, text)), load_trace(write(tmp_path, AZURE, "plain.csv")))


def test_azure_columns_may_come_in_any_order_among_others(tmp_path: Path) -> None:
    text = "Model,GeneratedTokens,TIMESTAMP,ContextTokens\nx,7,2024-05-10 00:00:01,9\nx,8,2024-05-10 00:00:00.5,10\n"
    trace = load_trace(write(tmp_path, text))
    assert trace.arrival_s.tolist() == [0.0, 0.5]
    assert trace.input_tokens.tolist() == [10, 9]
    assert set(trace.model) == {""}


def test_our_schema_with_every_column(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path, OURS))
    assert trace.arrival_s.tolist() == [0.5, 0.75, 1.0]
    assert trace.input_tokens.tolist() == [10, 11, 12]
    assert trace.output_tokens.tolist() == [20, 21, 22]
    np.testing.assert_array_equal(trace.consume_tps, [15, np.nan, 8.5])
    np.testing.assert_array_equal(trace.ttft_slo_s, [1.3, np.nan, 0.25])
    np.testing.assert_array_equal(trace.tpot_slo_s, [0.0505, np.nan, 0.1])
    assert trace.priority.tolist() == [2, 1, 0.5]
    assert trace.reader.tolist() == [True, True, False]
    assert trace.model.tolist() == ["llama", "", "qwen"]
    assert trace.session.tolist() == ["s1", "", "s1"]
    assert trace.klass.tolist() == ["chat", "", "voice"]


def test_rows_are_sorted_and_ties_keep_file_order(tmp_path: Path) -> None:
    text = "arrival_s,input_tokens,output_tokens\n2,1,1\n1,2,1\n2,3,1\n1,4,1\n0.5,5,1\n"
    trace = load_trace(write(tmp_path, text))
    assert trace.input_tokens.tolist() == [5, 2, 4, 1, 3]


def test_failed_requests_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = ["00,9,9", "01,9,0", "02,0,9", "03,0,0", "04,8,8"]
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join("2023-11-16 18:15:" + row for row in rows)
    trace = load_trace(write(tmp_path, text))
    assert trace.arrival_s.tolist() == [0, 4]
    assert trace.dropped == {"zero output tokens": 2, "zero input tokens": 1}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(OURS.encode("utf-8-sig"), id="byte order mark"),
        pytest.param(OURS.replace("\n", "\r\n"), id="Windows line ends"),
        pytest.param(OURS.rstrip("\n"), id="no last line end"),
        pytest.param(OURS.replace("\n", "\n\n"), id="blank lines"),
        pytest.param(OURS.replace(",", " , "), id="blanks around cells"),
        pytest.param(OURS.replace("llama", '"llama"').replace("model", '"model"'), id="quotes"),
        pytest.param(gzip.compress(OURS.encode()), id="gzip without .gz"),
        pytest.param(gzip.compress(OURS.encode()[:90]) + gzip.compress(OURS.encode()[90:]), id="two gzip members"),
    ],
)
def test_harmless_variations_change_nothing(tmp_path: Path, text: str | bytes) -> None:
    assert_same(load_trace(write(tmp_path, text, "variation.csv")), load_trace(write(tmp_path, OURS)))


def test_gz_equals_plain(tmp_path: Path) -> None:
    packed = write(tmp_path, gzip.compress(AZURE.encode()), "trace.csv.GZ")
    assert_same(load_trace(packed), load_trace(str(write(tmp_path, AZURE))))


def test_a_quoted_line_end_does_not_shift_line_numbers(tmp_path: Path) -> None:
    text = 'TIMESTAMP,ContextTokens,GeneratedTokens,note\n2023-11-16 18:15:46,1,1,"two\nlines"\n2023-11-16 18:15:46,x,1,\n'
    with pytest.raises(ValueError, match="line 4: column ContextTokens: 'x' is not a number"):
        load_trace(write(tmp_path, text))


def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen([sys.executable, "-c", f"open({str(pipe)!r}, 'w').write({AZURE!r})"]):
        assert len(load_trace(pipe)) == 3


def test_importing_traces_does_not_import_pandas() -> None:
    code = "import sys, traces; sys.exit(any(name in sys.modules for name in ('pandas', 'pydantic', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def data(name: str) -> Path:
    """A public data file, which is not in the repository."""
    root = os.environ.get("TOKENFLOW_DATA")
    path = Path(root or "/nowhere", "traces", name)
    if not path.exists():
        pytest.skip(f"TOKENFLOW_DATA has no traces/{name}" if root else "TOKENFLOW_DATA is not set")
    return path


def test_the_azure_conversation_trace() -> None:
    path = data("raw_schema/AzureLLMInferenceTrace_conv.csv.gz")
    began = time.perf_counter()
    trace = load_trace(path)
    assert time.perf_counter() - began < 1.0
    assert len(trace) == 19_366
    assert trace.arrival_s[0] == 0
    assert trace.arrival_s[-1] == pytest.approx(3501.7, abs=0.05)
    assert round(trace.input_tokens.mean()) == 1155
    assert round(trace.output_tokens.mean()) == 211
    assert trace.dropped == {}
    busiest = trace.window(1110, 2310)
    assert len(busiest) == 8264
    assert_same(trace, load_trace(data("azure_2023_conv.csv.gz")))


@pytest.mark.parametrize(
    ("name", "requests"),
    [
        ("mooncake_fast25_synthetic.csv.gz", 3_993),
        ("servegen_deepseek-r1_1h_x0.25_seed7.csv.gz", 32_885),
        ("SYNTHETIC_onoff_bursts_20min.csv.gz", 3_143),
    ],
)
def test_other_traces_in_our_schema(name: str, requests: int) -> None:
    trace = load_trace(data(name))
    assert len(trace) == requests
    assert (np.diff(trace.arrival_s) >= 0).all()
