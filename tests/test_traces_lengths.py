"""Laws of prompt and output lengths: their moments, their bounds, pairs from a file, and specs that cannot be meant."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces import BadInput, generate, make_trace, write_trace
from traces.lengths import LAWS, Lognormal, Zipf, parse_lengths


def lengths(n: int, spec: str, seed: int = 5) -> np.ndarray[Any, Any]:
    return generate(n, input_len=spec, seed=seed).input_tokens


def test_lognormal_lengths_have_their_median_and_sigma() -> None:
    tokens = lengths(50_000, "lognormal:180:0.8")
    assert np.median(tokens) == pytest.approx(180, rel=0.02)
    assert np.log(tokens).std() == pytest.approx(0.8, rel=0.02)
    assert set(lengths(9, "lognormal:180:0").tolist()) == {180}


def test_extreme_lognormal_lengths_are_clipped() -> None:
    tokens = lengths(1000, "lognormal:100:1e6")
    assert (tokens.min(), tokens.max()) == (1, 2**53)


@pytest.mark.parametrize("theta", [0.0, 0.72, 1.1, 3.0])
def test_zipf_lengths_have_the_probabilities_of_their_ranks(theta: float) -> None:
    n, most = 200_000, 50
    tokens = lengths(n, f"zipf:{theta}:{most}")
    shares = np.arange(1.0, most + 1) ** -theta
    expected = shares / shares.sum() * n
    found = np.bincount(tokens, minlength=most + 1)[1:]
    assert (np.abs(found - expected) < 5 * np.sqrt(expected) + 5).all()


def test_a_steep_zipf_is_all_ones() -> None:
    assert set(lengths(99, "zipf:1e9:1000").tolist()) == {1}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a:b.csv"         # a name that a spec could stumble on
    write_trace(make_trace(range(5), [10, 20, 30, 40, 50], [1, 2, 3, 4, 5]), path)
    return path


def test_empirical_lengths_are_those_of_the_file(file: Path) -> None:
    trace = generate(20_000, input_len=f"empirical:{file}", output_len=7)
    values, counts = np.unique(trace.input_tokens, return_counts=True)
    assert values.tolist() == [10, 20, 30, 40, 50]
    assert (np.abs(counts - 4000) < 300).all()
    assert f"--input-len empirical:{file} --output-len constant:7" in trace.source


def test_the_same_file_twice_draws_pairs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    trace = generate(1000, input_len=f"empirical:{file}", output_len=f"empirical:./{file.name}")
    assert (trace.input_tokens == 10 * trace.output_tokens).all()
    assert len(set(trace.output_tokens.tolist())) == 5


def test_two_files_are_drawn_apart(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("output_tokens,input_tokens\n1,10\n2,20\n3,30\n4,40\n5,50\n")
    trace = generate(1000, input_len=f"empirical:{file}", output_len=f"empirical:{tmp_path / 'other.csv'}")
    assert set(trace.output_tokens.tolist()) == {1, 2, 3, 4, 5}
    assert (trace.input_tokens != 10 * trace.output_tokens).any()


def test_published_lengths_can_be_drawn() -> None:
    root = os.environ.get("TOKENFLOW_DATA")
    path = Path(root or "/nowhere", "traces", "sharegpt_8k_llama2_lengths.csv.gz")
    if not path.exists():
        pytest.skip(f"TOKENFLOW_DATA has no {path.name}" if root else "TOKENFLOW_DATA is not set")
    trace = generate(20_000, input_len=f"empirical:{path}", output_len=f"empirical:{path}")
    assert np.median(trace.input_tokens) == pytest.approx(1730, rel=0.04)
    assert np.median(trace.output_tokens) == pytest.approx(415, rel=0.04)
    assert (trace.input_tokens + trace.output_tokens).max() <= 8192


@pytest.mark.parametrize(("spec", "phrase"), [
    ("lognormal:180", "must be written lognormal:MEDIAN:SIGMA"),
    ("lognormal:0:1", "'0' must be at least 1 token"),
    ("lognormal:5:-1", "'-1' is negative"),
    ("lognormal:5:inf", "'inf' is infinite"),
    ("zipf:1.1", "must be written zipf:THETA:MAX"),
    ("zipf:-1:1024", "'-1' is negative"),
    ("zipf:1.1:0", "'0' must be at least 1 token"),
    ("zipf:1.1:1e9", "'1e9' is larger than 2**24"),
    ("empirical", "must be written empirical:FILE"),
    ("empirical:", "must be written empirical:FILE"),
    ("empirical:none.csv", "none.csv: cannot be read: no such file"),
    ("burstgpt-request:3", "must be written burstgpt-request"),
])
def test_impossible_specs_are_named(spec: str, phrase: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_lengths("--output-len", spec, "output")
    assert caught.value.what == "--output-len"
    assert phrase in str(caught.value)
    assert str(caught.value).splitlines() == [str(caught.value)]


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("input_tokens,output_tokens\n1,2\n1,x\n")
    with pytest.raises(BadInput, match=r"--input-len: .*bad\.csv, line 3: column output_tokens: 'x' is not a number"):
        generate(3, input_len=f"empirical:{tmp_path / 'bad.csv'}")


@given(law=st.builds(Lognormal, st.integers(1, 2**50), st.floats(0, 1e9)) | st.builds(Zipf, st.floats(0, 1e9), st.integers(1, 999)))
def test_a_law_is_written_as_the_spec_that_gives_it(law: Lognormal | Zipf) -> None:
    assert parse_lengths("--input-len", str(law)) == law
    tokens = law.sample(np.random.default_rng(0), 20)
    assert tokens.dtype == np.int64
    assert (tokens >= 1).all()


def test_every_law_is_listed_by_its_form() -> None:
    assert all(law.form.split(":")[0] == name for name, law in LAWS.items())
