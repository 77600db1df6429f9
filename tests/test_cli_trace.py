"""`tokenflow trace describe|convert|generate`, and the flags of run that draw readers or spread ties."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.cli import main
from traces import load_trace

MOONCAKE = "".join(f'{{"timestamp": {500 * n}, "input_length": {50 + n}, "output_length": {n % 9}, "hash_ids": [{n}]}}\n'
                   for n in range(90))


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress(MOONCAKE.encode()))
    (tmp_path / "bad.jsonl").write_text(MOONCAKE + '{"timestamp": "x", "input_length": 1, "output_length": 1}\n')
    (tmp_path / "ticks.csv").write_text("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
                                        + "".join(f"{n // 4},GPT-4,5,6,11,API log\n" for n in range(80)))
    return tmp_path


def did(capsys: pytest.CaptureFixture[str], words: str) -> str:
    assert main(words.split()) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_describe_shows_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    out = did(capsys, "trace describe m.jsonl.gz")
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    assert out.startswith("80 requests, 10 rows with zero output tokens left out: m.jsonl.gz (read as ")
    assert "Mooncake, milliseconds)" in " ".join(out.split())
    assert re.search(r"span +44\.0 s, 1\.795 requests/s", out)
    assert re.search(r"CV of gaps +0\.29", out)
    assert re.search(r"gaps look like +weibull k=\d", out)
    assert re.search(r"peak/mean +1\.\d in 1 s, 1\.\d in 10 s +\n", out)
    assert re.search(r"input +5\d +7\d", out)
    assert "Spearman correlation of input and output: " in out
    assert "ties" not in out


def test_describe_says_where_the_clock_is_coarse(capsys: pytest.CaptureFixture[str]) -> None:
    assert "76% of gaps are zero" in did(capsys, "trace describe ticks.csv")
    assert "zero" not in did(capsys, "trace describe ticks.csv --jitter-ties 1")


def test_describe_in_json_of_a_part(capsys: pytest.CaptureFixture[str]) -> None:
    said = json.loads(did(capsys, "trace describe m.jsonl.gz --start 10 --end 20 --json"))
    assert (said["requests"], said["dropped"]) == (18, {"zero output tokens": 10})
    assert said["trace"] == "m.jsonl.gz (read as Mooncake, milliseconds) --start 10 --end 20"
    assert said["gap_fits"] is None
    assert set(said) == {"trace", "requests", "dropped", "span_s", "rate_per_s", "tied_gap_share", "gap_cv", "gap_cv_per_300s",
                         "peak_to_mean", "busiest_1200s", "input_tokens", "output_tokens", "input_output_spearman", "consume_tps",
                         "gap_fits"}


def test_the_unit_of_time_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    did(capsys, "trace convert m.jsonl.gz seconds.csv --time-unit s --jitter-ties 1")
    assert load_trace("seconds.csv").arrival_s[-1] == 44_500
    said = json.loads(did(capsys, "run --policy vllm --trace m.jsonl.gz --time-unit ms --limit 3 --json"))
    assert said["trace"] == "m.jsonl.gz (read as Mooncake, milliseconds) --limit 3"


@pytest.mark.parametrize("out", ["mine.csv", "mine.csv.gz"])
def test_convert_writes_our_own_kind(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert did(capsys, f"trace convert m.jsonl.gz {out}") == f"{out}: 80 requests, 10 rows with zero output tokens left out\n"
    theirs, mine = load_trace("m.jsonl.gz"), load_trace(out)
    for name in ("arrival_s", "input_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
    did(capsys, f"trace convert {out} again.csv")
    assert load_trace("again.csv").arrival_s.tolist() == mine.arrival_s.tolist()


def test_convert_cuts_spreads_and_adds_readers(capsys: pytest.CaptureFixture[str]) -> None:
    did(capsys, "trace convert ticks.csv out.csv --jitter-ties 1 --start 5 --limit 20 --time-scale 2 "
                "--consume-rate human-reading --seed 4")
    trace = load_trace("out.csv")
    assert len(trace) == len(np.unique(trace.arrival_s)) == 20
    assert trace.arrival_s[-1] < 10
    assert len(set(trace.consume_tps.tolist())) == 20
    assert set(trace.klass) == {"API log"}


def test_generate_keeps_what_it_draws(capsys: pytest.CaptureFixture[str]) -> None:
    words = "trace generate --num-prompts 200 --arrival onoff:4:60:240 --request-rate 2 --input-len lognormal:200:1 --seed 3"
    assert did(capsys, f"{words} --consume-rate 0.4:15,0.6:20 -o one.csv") == "one.csv: 200 requests\n"
    did(capsys, f"{words} --consume-rate 0.4:15,0.6:20 -o two.csv")
    did(capsys, f"{words} -o three.csv")
    assert Path("one.csv").read_bytes() == Path("two.csv").read_bytes()
    assert set(load_trace("one.csv").consume_tps.tolist()) == {15, 20}
    assert load_trace("one.csv").arrival_s.tolist() == load_trace("three.csv").arrival_s.tolist()
    assert np.isnan(load_trace("three.csv").consume_tps).all()
    did(capsys, "trace generate --num-prompts 9 --input-len empirical:one.csv --output-len empirical:one.csv -o four.csv")
    pairs = {*zip(*(column.tolist() for column in (load_trace("one.csv").input_tokens, load_trace("one.csv").output_tokens)))}
    assert {*zip(load_trace("four.csv").input_tokens.tolist(), load_trace("four.csv").output_tokens.tolist())} <= pairs


@pytest.mark.parametrize("law", ["weibull", "gamma", "burstgpt"])
def test_run_takes_every_law(law: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"run --policy vllm --num-prompts 5 --arrival {law} --request-rate 2 --output-len zipf:1.1:50 --json"
    said = json.loads(did(capsys, words))
    assert said["completed"] == 5
    assert f"--arrival {law} --request-rate 2" in said["trace"]


def rates(capsys: pytest.CaptureFixture[str], words: str) -> list[float]:
    did(capsys, f"run --policy vllm {words} -o out")
    column = [row.split(",") for row in Path("out/requests.csv").read_text().splitlines()]
    place = next(place for place, name in enumerate(column[0]) if "consum" in name or name == "rate_tps")
    for path in Path("out").iterdir():
        path.unlink()
    return [float(row[place]) for row in column[1:]]


def test_readers_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    drawn = "--num-prompts 30 --output-len 20 --seed 2"
    mixed = rates(capsys, f"{drawn} --consume-rate 0.4:15,0.6:20")
    assert set(mixed) == {15, 20}
    assert rates(capsys, f"{drawn} --consume-rate 0.4:15,0.6:20") == mixed
    assert len(set(rates(capsys, f"{drawn} --consume-rate human-listening"))) == 30
    did(capsys, f"trace generate {drawn} --consume-rate 0.4:15,0.6:20 -o kept.csv")
    assert load_trace("kept.csv").consume_tps.tolist() == mixed
    assert rates(capsys, "--trace kept.csv --consume-rate human-reading") == mixed, "the file's own come first"
    assert rates(capsys, "--trace kept.csv --consume-rate 3") == mixed


def test_a_run_says_who_its_readers_are(capsys: pytest.CaptureFixture[str]) -> None:
    words = "run --policy vllm --trace ticks.csv --consume-rate 0.5:10,0.5:30 --jitter-ties 1 --seed 6 --json"
    said = json.loads(did(capsys, words))
    assert said["trace"] == "ticks.csv --jitter-ties 1 --seed 6 --consume-rate 0.5:10,0.5:30 --seed 6"
    assert said["consume_rate"] == 20


BAD: list[tuple[str, str]] = [
    ("trace", r"command line: tokenflow trace: Missing command"),
    ("trace draw", r"command line: tokenflow trace: No such command 'draw'"),
    ("trace describe", r"FILE: tokenflow trace describe: is required"),
    ("trace describe none.csv", r"trace: none.csv: cannot be read: no such file"),
    ("trace describe bad.jsonl", r"trace: bad.jsonl, line 91: column timestamp: 'x' is not a number"),
    ("trace describe m.jsonl.gz --start 99", r"--start: 99: no request arrives"),
    ("trace describe m.jsonl.gz --limit many", r"--limit: 'many': is not a whole number"),
    ("trace describe m.jsonl.gz --jitter-ties 0", r"--jitter-ties: 0.0: must be a number above 0"),
    ("trace describe m.jsonl.gz --jitter-ties 1 --seed -1", r"--seed: -1: must be a whole number from 0"),
    ("trace describe m.jsonl.gz --time-unit us", r"--time-unit: 'us': must be s or ms"),
    ("trace convert ticks.csv out.csv --time-unit ms", r"--time-unit: ms: ticks.csv is of the kind BurstGPT, whose unit"),
    ("trace convert m.jsonl.gz", r"OUT: tokenflow trace convert: is required"),
    ("trace convert m.jsonl.gz ticks.csv", r"output file: ticks.csv: exists; files are never overwritten"),
    ("trace convert m.jsonl.gz nowhere/out.csv", r"trace: nowhere/out.csv: cannot be written: no such file or directory"),
    ("trace convert m.jsonl.gz out.csv --consume-rate quick", r"--consume-rate: 'quick': 'quick' is not a number; known are"),
    ("trace convert bad.jsonl out.csv", r"trace: bad.jsonl, line 91"),
    ("trace generate -o out.csv", r"--num-prompts: \(not given\): trace generate needs it"),
    ("trace generate --num-prompts 3", r"--output: \(not given\): trace generate needs it"),
    ("trace generate --num-prompts 3 -o ticks.csv", r"output file: ticks.csv: exists"),
    ("trace generate --num-prompts 3 -o out.csv --arrival onoff:9:60:60 --request-rate 1", r"--arrival: .*PEAK must lie between"),
    ("trace generate --num-prompts 3 -o out.csv --input-len empirical:bad.jsonl", r"--input-len: .*bad.jsonl, line 91"),
    ("trace generate --num-prompts 3 -o out.csv --consume-rate 0.4:15", r"--consume-rate: '0.4:15': shares must add up to 1"),
    ("trace generate --num-prompts 3 -o out.csv --start 3", r"--start: tokenflow trace generate: No such option"),
    ("run --num-prompts 3 --consume-rate 0.4:15,0.5:20", r"--consume-rate: '0.4:15,0.5:20': shares must add up to 1, not 0.9"),
    ("run --num-prompts 3 --consume-rate human", r"--consume-rate: 'human': 'human' is not a number; known are .*human-reading"),
    ("run --num-prompts 3 --jitter-ties 1", r"--num-prompts: 3: cannot be given together with --jitter-ties"),
    ("run --jitter-ties 1", r"--jitter-ties: 1.0: is for a trace from a file: give --trace FILE as well"),
    ("run --num-prompts 3 --output-len zipf:1", r"--output-len: 'zipf:1': must be written zipf:THETA:MAX"),
]


@pytest.mark.parametrize(("words", "line"), BAD, ids=[words for words, _ in BAD])
def test_one_line_and_nothing_written(words: str, line: str, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before: list[Any] = sorted(os.listdir(inside))
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tokenflow: ")
    assert err.count("\n") == 1
    assert re.search(line, err), err
    assert sorted(os.listdir(inside)) == before


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "describe", "none.csv", "--debug"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err
