"""The same requests in every kind of file are the same trace, by whatever name, order, packing and unit; and so are conversions."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traces import BadInput, Trace, load_trace, make_trace, write_trace
from traces.load import load_lengths
from traces.schemas import SCHEMAS

Requests = list[tuple[int, int, int]]       # milliseconds, input tokens, output tokens


def csv_text(header: str, rows: list[list[Any]], order: list[int] | None = None) -> str:
    names = header.split(",")
    places = order or list(range(len(names)))
    lines = [[names[place] for place in places], *([row[place] for place in places] for row in rows)]
    return "".join(",".join(map(str, line)) + "\n" for line in lines)


def seconds(ms: int) -> str:
    return f"{ms // 1000}.{ms % 1000:03d}"


def azure_time(ms: int) -> str:
    return (datetime(2024, 5, 10) + timedelta(milliseconds=ms)).isoformat(sep=" ", timespec="microseconds") + "+00:00"


def jsonl(objects: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(fields) + "\n" for fields in objects)


WRITTEN: dict[str, Callable[[Requests], str]] = {
    "TokenFlow Lab": lambda r: csv_text("arrival_s,input_tokens,output_tokens", [[seconds(t), i, o] for t, i, o in r]),
    "Azure LLM inference": lambda r: csv_text("TIMESTAMP,ContextTokens,GeneratedTokens", [[azure_time(t), i, o] for t, i, o in r]),
    "BurstGPT": lambda r: csv_text("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
                                   [[seconds(t), "", i, o, i + o, ""] for t, i, o in r]),
    "BurstGPT, 8 columns": lambda r: csv_text(
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
        [[seconds(t), "", 1.5, "", i, o, i + o, ""] for t, i, o in r], order=[7, 5, 3, 1, 0, 2, 4, 6]),
    "Vidur": lambda r: csv_text("arrived_at,num_prefill_tokens,num_decode_tokens", [[seconds(t), i, o] for t, i, o in r]),
    "vLLM timed_trace": lambda r: csv_text("timestamp,input_length,output_length", [[seconds(t), i, o] for t, i, o in r]),
    "vLLM timed_trace, JSON lines": lambda r: jsonl([
        {"timestamp": t / 1000, "input_length": i, "output_length": o} for t, i, o in r]),
    "Qwen-Bailian": lambda r: jsonl([
        {"chat_id": n, "parent_chat_id": -1, "timestamp": t / 1000, "input_length": i, "output_length": o, "turn": 1}
        for n, (t, i, o) in enumerate(r)]),
    "Mooncake": lambda r: jsonl([{"timestamp": t, "input_length": i, "output_length": o, "hash_ids": [1, 2]} for t, i, o in r]),
}

REQUESTS: Requests = [(0, 40160, 6), (0, 36640, 4), (40, 23769, 3), (277, 32140, 92), (86_400_001, 1, 1)]


def write(folder: Path, text: str | bytes, name: str = "trace") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def assert_same(one: Trace, other: Trace) -> None:
    for f in fields(one):
        if f.name not in ("source", "dropped"):
            np.testing.assert_array_equal(getattr(one, f.name), getattr(other, f.name), err_msg=f.name)


def test_every_schema_is_written_here() -> None:
    assert {schema.name for schema in SCHEMAS} == {name.split(",")[0] for name in WRITTEN}


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("kind", WRITTEN)
def test_the_same_requests_are_the_same_trace(tmp_path: Path, kind: str, pack: Callable[[bytes], bytes]) -> None:
    trace = load_trace(write(tmp_path, pack(WRITTEN[kind](REQUESTS).encode())))
    assert_same(trace, make_trace([0, 0, 0.04, 0.277, 86_400.001], [r[1] for r in REQUESTS], [r[2] for r in REQUESTS]))
    assert trace.dropped == {}


tokens = st.integers(1, 2**53)
lists = st.lists(st.tuples(st.integers(0, 10**10), tokens, tokens), min_size=1, max_size=6)


@given(requests=lists)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_requests_are_the_same_trace_in_every_schema(tmp_path: Path, requests: Requests) -> None:
    first = min(time for time, _, _ in requests)        # Azure's clock starts there
    requests = [(time - first, *lengths) for time, *lengths in requests]
    traces = [load_trace(write(tmp_path, text(requests))) for text in WRITTEN.values()]
    for trace in traces[1:]:
        assert_same(traces[0], trace)


@pytest.mark.parametrize("kind", WRITTEN)
def test_failed_requests_are_left_out_and_counted(tmp_path: Path, kind: str) -> None:
    requests = [(0, 9, 9), (5, 9, 0), (6, 0, 9), (7, 0, 0), (9, 8, 8)]
    trace = load_trace(write(tmp_path, WRITTEN[kind](requests)))
    assert trace.input_tokens.tolist() == [9, 8]
    assert trace.dropped == {"zero output tokens": 2, "zero input tokens": 1}


@pytest.mark.parametrize("name", ["again.csv", "again.csv.gz"])
@pytest.mark.parametrize("kind", WRITTEN)
def test_what_is_converted_is_the_same_trace(tmp_path: Path, kind: str, name: str) -> None:
    trace = load_trace(write(tmp_path, WRITTEN[kind](REQUESTS)))
    write_trace(trace, tmp_path / name)
    assert_same(trace, load_trace(tmp_path / name))


def test_burstgpt_tells_model_session_and_kind_of_request(tmp_path: Path) -> None:
    text = csv_text("Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
                    [[5, "s1", 2, "ChatGPT", 472, 18, 490, "Conversation log"], [45, "", 3, "GPT-4", 1087, 0, 1087, "API log"],
                     [118, "s2", 1, "GPT-4", 417, 276, 693, "API log"]])
    trace = load_trace(write(tmp_path, text))
    assert trace.arrival_s.tolist() == [5, 118]
    assert trace.model.tolist() == ["ChatGPT", "GPT-4"]
    assert trace.session.tolist() == ["s1", "s2"]
    assert trace.klass.tolist() == ["Conversation log", "API log"]
    assert trace.dropped == {"zero output tokens": 1}


def test_json_lines_have_fields_in_any_order_and_some_of_their_own(tmp_path: Path) -> None:
    text = ('\ufeff{"output_length": 6, "hash_ids": [], "timestamp": 1500, "input_length": 5}\n\n'
            '{"timestamp": 1.25e3, "input_length": "7", "output_length": 8.0, "session_id": "a", "x": {"y": [null, true]}}\r\n'
            '{"session_id": null, "timestamp": 2501, "input_length": 9, "output_length": 10}')
    trace = load_trace(write(tmp_path, text))
    assert trace.arrival_s.tolist() == [1.25, 1.5, 2.501]
    assert trace.input_tokens.tolist() == [7, 5, 9]
    assert trace.session.tolist() == ["a", "", ""]


@pytest.mark.parametrize(("stamps", "hash_ids", "unit", "arrival_s", "read_as"), [
    ([0, 2500], [1], None, [0, 2.5], "Mooncake, milliseconds"),
    ([0, "2500.0"], [], None, [0, 2.5], "Mooncake, milliseconds"),
    ([0, 2.5], [1], None, [0, 2.5], "vLLM timed_trace, seconds"),
    ([0, 2.5], None, None, [0, 2.5], "vLLM timed_trace, seconds"),
    ([0, 25], None, None, [0, 25], "vLLM timed_trace, seconds"),
    ([0, 25], [1], "s", [0, 25], "Mooncake, seconds"),
    ([0, 25.5], [1], "ms", [0, 0.0255], "Mooncake, milliseconds"),
    ([0, 25], None, "ms", [0, 0.025], "vLLM timed_trace, milliseconds"),
])
def test_hash_ids_and_whole_numbers_are_milliseconds(
    tmp_path: Path, stamps: list[Any], hash_ids: list[int] | None, unit: str | None, arrival_s: list[float], read_as: str
) -> None:
    """vLLM's timed_trace has Mooncake's fields, in seconds: a trace a thousand times too fast is another trace."""
    more = {} if hash_ids is None else {"hash_ids": hash_ids}
    text = jsonl([{"timestamp": stamp, "input_length": 2, "output_length": 3, **more} for stamp in stamps])
    trace = load_trace(write(tmp_path, text), unit)
    assert trace.arrival_s.tolist() == arrival_s
    assert trace.source == f"trace (read as {read_as})"


def test_the_unit_of_a_csv_file_in_vllms_columns(tmp_path: Path) -> None:
    path = write(tmp_path, csv_text("timestamp,input_length,output_length", [[0, 2, 3], [25, 2, 3]]))
    assert load_trace(path).arrival_s.tolist() == [0, 25]
    assert load_trace(path, time_unit="ms").arrival_s.tolist() == [0, 0.025]


@pytest.mark.parametrize(("unit", "reason"), [
    ("h", "must be s or ms"), ("s", "trace is of the kind Azure LLM inference, whose unit")])
def test_a_unit_that_cannot_be(tmp_path: Path, unit: str, reason: str) -> None:
    with pytest.raises(BadInput, match=rf"^--time-unit: .*{reason}"):
        load_trace(write(tmp_path, WRITTEN["Azure LLM inference"](REQUESTS)), unit)


def test_a_chat_id_means_seconds(tmp_path: Path) -> None:
    request = {"timestamp": 61.114, "input_length": 2, "output_length": 3}
    bailian = load_trace(write(tmp_path, jsonl([request | {"chat_id": 159, "type": "search"}])))
    assert bailian.arrival_s.tolist() == [61.114]
    assert bailian.klass.tolist() == ["search"]


def test_lengths_need_no_arrivals(tmp_path: Path) -> None:
    alone = load_lengths(write(tmp_path, "output_tokens,input_tokens\n1,2\n0,7\n3,4\n"))
    assert alone.tolist() == [[2, 1], [4, 3]]
    of_a_trace = load_lengths(write(tmp_path, WRITTEN["Mooncake"](REQUESTS)))
    assert of_a_trace.tolist() == [[i, o] for _, i, o in REQUESTS]


def data(name: str) -> Path:
    """A public data file, which is not in the repository."""
    root = os.environ.get("TOKENFLOW_DATA")
    path = Path(root or "/nowhere", "traces", name)
    if not path.exists():
        pytest.skip(f"TOKENFLOW_DATA has no traces/{name}" if root else "TOKENFLOW_DATA is not set")
    return path


@pytest.mark.parametrize(("name", "requests", "last_s", "mean_input", "mean_output"), [
    ("AzureLLMInferenceTrace_conv.csv.gz", 19_366, 3501.722, 1155, 211),
    ("vidur_splitwise_conv.csv.gz", 19_366, 3501.722, 1155, 211),
    ("mooncake_fast25_synthetic_trace.jsonl.gz", 3_993, 1022.025, 15_325, 149),
    ("SYNTHETIC_BurstGPT_schema.csv.gz", 2_367, 1196, 647, 232),
])
def test_files_as_they_are_published(name: str, requests: int, last_s: float, mean_input: int, mean_output: int) -> None:
    trace = load_trace(data(f"raw_schema/{name}"))
    assert len(trace) == requests
    assert trace.arrival_s[-1] == pytest.approx(last_s, abs=1e-3)
    assert (round(trace.input_tokens.mean()), round(trace.output_tokens.mean())) == (mean_input, mean_output)


@pytest.mark.parametrize(("one", "other"), [
    ("vidur_splitwise_conv.csv.gz", "raw_schema/AzureLLMInferenceTrace_conv.csv.gz"),
    ("mooncake_fast25_synthetic_trace.jsonl.gz", "mooncake_fast25_synthetic.csv.gz"),
])
def test_published_files_agree_across_schemas(one: str, other: str) -> None:
    mine, theirs = load_trace(data(f"raw_schema/{one}")), load_trace(data(other))
    np.testing.assert_allclose(mine.arrival_s, theirs.arrival_s, atol=1e-6)
    np.testing.assert_array_equal(mine.input_tokens, theirs.input_tokens)
    np.testing.assert_array_equal(mine.output_tokens, theirs.output_tokens)
