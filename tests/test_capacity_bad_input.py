"""Whatever a user gets wrong with `tokenflow capacity`: one line that says what, where and why; exit code 2; nothing written."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from sim.cli import main

BAD = [
    ("--trace good.csv", r"--trace: good.csv: a file has the load it has; .*--input-len empirical:FILE"),
    ("--end 5", r"--end: 5.0: a file has the load it has"),
    ("--num-prompts 5", r"--num-prompts: 5: requests at once are looked for"),
    ("--request-rate 5", r"--request-rate: 5.0: is what is looked for"),
    ("--of many", r"--of: many: must be rate or burst"),
    ("--of rate --arrival burst", r"--arrival: burst: cannot be given together with --of rate"),
    ("--of burst --arrival poisson", r"--arrival: poisson: cannot be given together with --of burst"),
    ("--arrival sometimes", r"arrival: .*sometimes"),
    ("--workload nosuch", r"workload: 'nosuch': unknown"),
    ("--target 0", r"--target: 0.0: must be a share above 0, at most 1"),
    ("--target 99", r"--target: 99.0: must be a share"),
    ("--target most", r"--target: 'most': is not a number"),
    ("--tolerance 0", r"--tolerance: 0.0: must be a share from 0.001 to 1"),
    ("--duration 0", r"--duration: 0.0: must be a number above 0"),
    ("--seeds 0", r"--seeds: 0: must be a whole number from 1"),
    ("--seed -1", r"--seed: -1: must be a whole number from 0"),
    ("--jobs 0", r"--jobs: 0: must be a whole number from 1"),
    ("--max-load 0.001", r"--max-load: 0.001: must be a rate from 0.01"),
    ("--of burst --max-load 2.5", r"--max-load: 2.5: must be a whole number from 1"),
    ("--goodput itl:5", r"--goodput: 'itl': unknown"),
    ("--policies nosuch", r"policy: 'nosuch': unknown"),
    ("--policies vllm,vllm", r"--policies: vllm: is listed twice"),
    ("--policies vllm[size=3]", r"--policy-arg: size: vllm has no such argument"),
    ("--hardware nosuch", r"capacity: tokenflow run .*: hardware: 'nosuch': unknown"),
    ("--policies vllm --max-model-len 10 --max-load 1", r"capacity: tokenflow run .*: trace: .*no request fits"),
    ("-o taken", r"output directory: taken: is not empty"),
    ("--save-detailed", r"--save-detailed: tokenflow capacity: No such option"),
]


@pytest.mark.parametrize(("words", "line"), BAD, ids=[words for words, _ in BAD])
def test_one_line_and_nothing_written(words: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.csv").write_text("arrival_s,input_tokens,output_tokens\n0,100,20\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    before = sorted(os.listdir(tmp_path))
    assert main(["capacity", "--jobs", "1", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tokenflow: ")
    assert err.count("\n") == 1
    assert re.search(line, err), err
    assert sorted(os.listdir(tmp_path)) == before
