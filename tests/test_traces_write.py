"""A written trace reads back bit for bit, the same trace gives the same bytes, and a file is whole or not there."""

from __future__ import annotations

import gzip
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traces import BadInput, Trace, generate, load_trace, make_trace, write_trace

amount = st.floats(min_value=0, max_value=2**53, exclude_min=True)
given_or_not = amount | st.just(float("nan"))
label = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8)


@st.composite
def any_trace(draw: st.DrawFn) -> Trace:
    n = draw(st.integers(1, 6))

    def column(element: st.SearchStrategy[Any]) -> Any:
        return draw(st.none() | st.lists(element, min_size=n, max_size=n))

    arrivals = draw(st.lists(st.floats(0, 2**53), min_size=n, max_size=n))
    inputs, outputs = (draw(st.lists(st.integers(1, 2**53), min_size=n, max_size=n)) for _ in range(2))
    numbers = {name: column(given_or_not) for name in ("priority", "ttft_slo_s", "tpot_slo_s")}
    numbers["consume_tps"] = column(st.floats(min_value=1e-9, max_value=2**53) | st.just(float("nan")))
    names = {name: column(label) for name in ("model", "session", "klass")}
    return make_trace(arrivals, inputs, outputs, **numbers, **names, reader=column(st.booleans()))


@given(trace=any_trace(), name=st.sampled_from(["trace.csv", "trace.csv.gz"]))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_reads_back_bit_for_bit(tmp_path: Path, trace: Trace, name: str) -> None:
    write_trace(trace, tmp_path / name)
    again = load_trace(tmp_path / name)
    for f in fields(trace):
        if f.name not in ("source", "dropped"):
            np.testing.assert_array_equal(getattr(again, f.name), getattr(trace, f.name), err_msg=f.name)


def test_only_columns_with_a_value_are_written(tmp_path: Path) -> None:
    write_trace(make_trace([0.25, 1], 2, 3), tmp_path / "plain.csv")
    assert (tmp_path / "plain.csv").read_text() == "arrival_s,input_tokens,output_tokens\n0.25,2,3\n1.0,2,3\n"
    trace = make_trace([0, 1], 2, 3, ttft_slo_s=[1.3, np.nan], reader=[True, False], klass=["", "a,b"])
    write_trace(trace, tmp_path / "more.csv")
    text = 'arrival_s,input_tokens,output_tokens,class,ttft_slo_ms,reader\n0.0,2,3,,1300,\n1.0,2,3,"a,b",,false\n'
    assert (tmp_path / "more.csv").read_text() == text


def test_gz_holds_the_same_text_and_no_time(tmp_path: Path) -> None:
    trace = generate(50, arrival="poisson", request_rate=3.0, input_len="normal:100:20")
    for name in ("plain.csv", "one.csv.gz", "two.csv.gz"):
        write_trace(trace, tmp_path / name)
    one = (tmp_path / "one.csv.gz").read_bytes()
    assert one == (tmp_path / "two.csv.gz").read_bytes()
    assert one[4:8] == bytes(4)
    assert gzip.decompress(one) == (tmp_path / "plain.csv").read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace.csv"
    write_trace(generate(3), path)
    before = path.read_bytes()

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(BadInput, match=r"trace\.csv: cannot be written: no space left"):
        write_trace(generate(4), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["trace.csv"]


@pytest.mark.parametrize("name", ["missing/trace.csv", "", ".", "file/trace.csv", "x" * 300, "a\0b"])
def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput) as caught:
        write_trace(generate(1), name)
    assert str(caught.value).splitlines() == [str(caught.value)]
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
