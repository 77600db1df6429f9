"""Whatever a user gets wrong with `tokenflow tune`: one line that says what, where and why; exit code 2; nothing written."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from sim.cli import main

pytest.importorskip("optuna", reason="optuna is not installed: pip install 'tokenflow-lab[opt]'")

N = "--num-prompts 5 --input-len normal:90:20"

BAD = [
    ("", r"workload: command line: give --trace FILE, --workload NAME, or --num-prompts N"),
    (f"{N} --policy nosuch", r"policy: 'nosuch': unknown; known are sglang"),
    (f"{N} --policy vllm", r"--param: vllm: no ranges are known of it: give --param NAME=LOW:HIGH; its arguments: "),
    (f"{N} --policy-arg gama=3", r"--policy-arg: gama: tokenflow has no such argument"),
    (f"{N} --param gama=3:4", r"--param: 'gama': tokenflow has no such argument; did you mean 'gamma'\?"),
    (f"{N} --param gamma=4:3", r"--param: gamma=4:3: the range must begin below its end"),
    (f"{N} --param fill=0.5:2", r"--param: fill = 0.5 to 2: policy: tokenflow: fill=2.0.*at most 1"),
    (f"{N} --policy-arg gamma=3 --param gamma", r"--param: gamma: is given a value as well"),
    (f"{N} --objective p99_tft_ms", r"--objective: 'p99_tft_ms': no metric that has a better way; did you mean 'p99_ttft_ms'\?"),
    (f"{N} --objective seed", r"--objective: 'seed': no metric that has a better way"),
    (f"{N} --objective qos,", r"--objective: '': no metric"),
    (f"{N} --objective qos,qos", r"--objective: qos: is given twice"),
    (f"{N} --objective goodput_share", r"--objective: goodput_share: says something only with limits: give --goodput as well"),
    (f"{N} --most goodput_share=1", r"--objective: goodput_share: says something only with limits"),
    (f"{N} --most mean_rebuffer_s", r"--most: 'mean_rebuffer_s': must be METRIC=VALUE, or METRIC=1.1x"),
    (f"{N} --least output_throughput=much", r"--least: output_throughput=much: 'much' is not a number"),
    (f"{N} --objective p99.99.9_ttft_ms", r"--metric-percentiles: '99.99.9': is not a number"),
    (f"{N} --trials 1", r"--trials: 1: must be a whole number from 2"),
    (f"{N} --trials many", r"--trials: 'many': is not a whole number"),
    (f"{N} --seeds 0", r"--seeds: 0: must be a whole number from 1"),
    (f"{N} --held-out-seeds 0", r"--held-out-seeds: 0: must be a whole number from 1"),
    (f"{N} --held-out-workload nosuch", r"workload: 'nosuch': unknown; did you mean"),
    ("--workload burst-80 --held-out-workload burst-80", r"--held-out-workload: burst-80: is given twice, or is what"),
    (f"{N} --jobs 0", r"--jobs: 0: must be a whole number from 1"),
    (f"{N} --seed -1", r"--seed: -1: must be a whole number from 0"),
    (f"{N} --hardware nosuch --trials 2", r"hardware: 'nosuch': unknown"),
    (f"{N} --trials 2 --max-model-len 10", r"trace: .*no request fits"),
    (f"{N} --resume", r"--resume: command line: says of no directory what to resume: give -o DIR as well"),
    (f"{N} --resume -o new", r"--resume: new: holds no interrupted search"),
    (f"{N} --resume -o alien", r"--resume: .*runs.jsonl: is not what this command writes"),
    (f"{N} --resume -o older", r"--resume: .*runs.jsonl: its runs are from other code than this; begin anew elsewhere"),
    (f"{N} -o taken", r"output directory: taken: is not empty; results are never overwritten"),
    (f"{N} -o good.csv", r"output directory: good.csv: is a file"),
    (f"{N} -o good.csv/inside", r"output directory: good.csv/inside: cannot be written: not a directory"),
    ("--num-prompts 5", r"--held-out-seeds: .*every seed asks for the same requests, so none would be held out"),
    ("--trace good.csv", r"--held-out-seeds: .*every seed asks for the same requests, so none would be held out"),
    (f"{N} --save-detailed", r"--save-detailed: tokenflow tune: No such option"),
]


def listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(("words", "line"), BAD, ids=[words for words, _ in BAD])
def test_one_line_and_nothing_written(words: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.csv").write_text("arrival_s,input_tokens,output_tokens\n0,100,20\n")
    for name, file, text in (("taken", "file", ""), ("alien", "runs.jsonl", "what\n"),
                             ("older", "runs.jsonl", '{"format": 1, "code": "before"}\n')):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    before = listed(tmp_path)
    assert main(["tune", *words.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith("tokenflow: ")
    assert err.count("\n") == 1
    assert re.search(line, err), err
    assert listed(tmp_path) == before
    assert os.getcwd() == str(tmp_path)


def test_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from sim.study.store import alone
    monkeypatch.chdir(tmp_path)
    with alone(tmp_path):
        before = listed(tmp_path)
        Path("runs.jsonl").write_text("")
        assert main(["tune", *N.split(), "--resume", "-o", "."]) == 2
        Path("runs.jsonl").unlink()
        assert "output directory: .: another process is at work in it" in capsys.readouterr().err
        assert listed(tmp_path) == before
