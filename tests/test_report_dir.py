"""`tokenflow report`: a page on whatever a command has left, and one line where that is nothing, or broken."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import Reader

from sim import BadInput, Result, load_study, report_curves, report_sweep, simulate
from sim.cli import main
from sim.cli_tables import sections
from sim.plot_pareto import Mark, front, pareto
from sim.plot_style import own_look
from sim.plots import DRAWINGS, draw
from sim.report_sweep import read_sweep
from sim.saved_runs import read_runs
from sim.saving import as_csv
from traces import generate, make_trace

pytestmark = pytest.mark.unaudited

SMALL = "--num-prompts 12 --input-len 200 --output-len normal:150:40 --kv-tokens 3000 --seed 4"
POLICIES = ("sglang", "vllm", "tokenflow")
METRICS = ("mean_ttft_ms", "p99_ttft_ms", "mean_rebuffer_s", "stalled_share", "effective_throughput", "output_throughput",
           "mean_qoe", "preemptions")


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def done(command: str) -> None:
    words = command.split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["tokenflow", *words])        # what host.json notes
        assert main(words) == 0


def said(page: str | Path) -> str:
    return " ".join("".join(Reader(Path(page).read_text()).text).split())


def swept(folder: Path, seeds: int = 3, failed: bool = False) -> Path:
    """As `tokenflow sweep` leaves it: two policies, two loads."""
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for policy in ("vllm", "tokenflow"):
        for load in (8, 16):
            for seed in range(seeds):
                trace = generate(load, input_len=200, output_len="normal:150:40", seed=seed)
                summary = simulate(policy, trace, kv_tokens=3_000).summary
                rows.append({"policy": policy, "num_prompts": load, "seed": seed, "key": f"{policy}{load}{seed}", **summary})
    (folder / "runs.csv").write_text(as_csv({key: [row[key] for row in rows] for key in rows[0]}))
    combinations = []
    for first in range(0, len(rows), seeds):
        same = rows[first : first + seeds]
        told = {"combination": f"{same[0]['policy']} · {same[0]['num_prompts']}", "policy": same[0]["policy"],
                "num_prompts": same[0]["num_prompts"], "runs": seeds}
        for key in METRICS:
            values = [row[key] for row in same]
            told |= {key: np.mean(values), f"{key}_ci95": 4.303 * np.std(values, ddof=1) / seeds**0.5 if seeds > 1 else ""}
        combinations.append(told)
    (folder / "summary.csv").write_text(as_csv({key: [row[key] for row in combinations] for key in combinations[0]}))
    if seeds > 1:
        (folder / "paired.csv").write_text("combination,baseline,metric,pairs,difference,difference_ci95,ratio,ratio_ci95\n"
                                           "tokenflow · 8,vllm · 8,p99_ttft_ms,3,-5.0,1.0,0.75,0.0625\n"
                                           "tokenflow · 8,vllm · 8,mean_rebuffer_s,3,0.5,1.0,,\n")
    (folder / "study.yaml").write_text("name: <loads>\naxes:\n  policy: [vllm, tokenflow]\n")
    (folder / "runs.jsonl").write_text('{"key": "vllm80", "command": "tokenflow run --policy vllm --seed 0"}\n')
    if failed:
        (folder / "failures.csv").write_text('key,command,why\nab,"tokenflow run --policy mine.py:<b>",policy: it raised\n')
    return folder


# ---- a saved run says what the live one said

@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    trace = make_trace(np.linspace(0, 2, 12), 200, 150, consume_tps=[20, 4, "30/10@50"] * 4, reader=[True] * 11 + [False])
    return {name: simulate(name, trace, kv_tokens=3_000, timeline=True, seed=4) for name in POLICIES}


def saved(results: dict[str, Result], folder: Path, detailed: bool = True) -> Path:
    for label, result in results.items():
        result.save(folder / label, detailed=detailed)
    return folder


def test_what_is_read_back_is_what_was_saved(results: dict[str, Result]) -> None:
    runs = read_runs(saved(results, Path("here")))
    for label, result in results.items():
        run = runs[label]
        live, told = result.columns(), run.columns()
        assert list(told) == list(live)
        for name in ("ttft_s", "rebuffer_s", "sent_s", "delivered_tokens", "input_tokens"):
            np.testing.assert_array_equal(told[name], live[name].astype(float))
        assert told["fate"].tolist() == live["fate"].tolist()
        for id in range(12):
            times_s, (taken_s, stalls) = run.token_times_s(id), run.read_along(id) or (None, None)
            np.testing.assert_allclose(times_s, result.token_times_s(id), atol=1e-6)
            np.testing.assert_allclose(taken_s, result.read_along(id)[0], atol=1e-6)
            assert stalls is not None
            assert np.diff(stalls).sum() == pytest.approx(np.diff(result.read_along(id)[1]).sum(), abs=1e-5)
        assert run.timeline is not None
        for name, column in result.timeline.columns().items():
            np.testing.assert_array_equal(run.timeline.columns()[name], column)


def test_figures_of_saved_runs_are_those_of_live_ones(results: dict[str, Result]) -> None:
    runs = read_runs(saved(results, Path("here")))
    live, back = draw(results), draw({label: runs[label] for label in results})
    assert [drawing.name for drawing in back] == [drawing.name for drawing in live] == list(DRAWINGS)
    same = [drawing.name for drawing, other in zip(live, back) if drawing.png == other.png]
    assert set(same) >= {"ttft", "rebuffering", "requests", "memory", "pareto"}       # tokens: times are kept in nanoseconds


# ---- pages

def test_a_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    done(f"compare {SMALL} --policies {','.join(POLICIES)} --save-timeline --save-detailed -o out")
    capsys.readouterr()
    done("report out")
    assert capsys.readouterr().out == "out/report.html\n"
    read, text = Reader(Path("out/report.html").read_text()), said("out/report.html")
    assert not read.all("script")
    assert len(read.all("img")) == len(DRAWINGS)
    assert all(base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
               for image in read.all("img"))
    facts = json.loads(Path("out/compare.json").read_text())["policies"]
    table = " ".join(re.sub(r"<[^>]+>", " ", Path("out/report.html").read_text()).split())
    for section in sections(facts):
        for title, cells in section:
            assert " ".join([title.strip(), *(cell for column in cells for cell in column if cell)]) in table
    assert "The rule: lowest P99 TTFT" in text
    assert f"tokenflow compare {SMALL} --policies sglang,vllm,tokenflow --save-timeline --save-detailed tokenflow report" in text
    assert "-o out" not in text, "it is taken"
    assert "Not in these files" not in text


def test_what_is_not_there_is_named_with_the_command_that_keeps_it() -> None:
    done(f"run {SMALL} --policy vllm -o out")
    done("report out -o page.html")
    text = said("page.html")
    assert "timeline.csv, which --save-timeline keeps" in text
    assert f"With everything: tokenflow run {SMALL} --policy vllm --save-timeline --save-detailed" in text
    assert len(Reader(Path("page.html").read_text()).all("img")) == 2
    assert not Path("out/report.html").exists()


def test_the_demos_page_can_be_made_again_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from sim.workloads import WORKLOADS
    monkeypatch.setitem(WORKLOADS, "burst-80", replace(WORKLOADS["burst-80"], num_prompts=5))
    done("demo -o out")
    before = Path("out/report.html").read_bytes()
    capsys.readouterr()
    assert main(["report", "out"]) == 2
    assert "out/report.html: is there already; results are never overwritten" in capsys.readouterr().err
    assert Path("out/report.html").read_bytes() == before
    done("report out -o again.html")
    live, again = (re.findall(r"<table>.*?</table>", Path(page).read_text(), re.DOTALL)
                   for page in ("out/report.html", "again.html"))
    assert live == again


def test_one_policy_of_a_comparison_knows_the_command() -> None:
    done(f"compare {SMALL} --policies vllm,tokenflow -o out")
    done("report out/vllm -o page.html")
    assert f"tokenflow compare {SMALL} --policies vllm,tokenflow" in said("page.html")


def test_the_same_directory_gives_the_same_bytes() -> None:
    done(f"compare {SMALL} --policies vllm,tokenflow -o out")
    done("report out -o one.html")
    done("report out -o two.html")
    assert Path("one.html").read_bytes() == Path("two.html").read_bytes()


def test_runs_of_the_engine_are_called_measured(results: dict[str, Result]) -> None:
    """A replay leaves the same files; only run.json says that an engine did it."""
    saved(results, Path("sim"))
    saved({"vllm": results["vllm"]}, Path("real"))
    run = Path("real/vllm/run.json")
    engine = {"engine": "vLLM 0.32.0 in this process", "status": "measured", "token_times": "at the client", "latency_status": None}
    run.write_text(json.dumps(json.loads(run.read_text()) | engine))
    done("report real/vllm -o real.html")
    assert "Measured on vLLM 0.32.0 in this process: vllm." in said("real.html")
    assert "Everything here is simulated" not in said("real.html")
    Path("held").mkdir()
    pair = {"simulated": "sim/vllm", "simulated_as": "vllm", "measured": ["real/vllm"]}
    Path("held/compare.json").write_text(json.dumps({"policies": {"vllm": pair}}))
    done("report held")
    text = said("held/report.html")
    assert "vllm (simulated)" in text
    assert "vllm (measured)" in text
    assert "Simulated: vllm (simulated)." in text


# ---- a sweep

def test_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    swept(Path("study"), failed=True)
    done("report study")
    read, text = Reader(Path("study/report.html").read_text()), said("study/report.html")
    assert "<loads>: 4 combinations, 12 runs" in text
    with Path("study/summary.csv").open() as file:
        for row in csv.DictReader(file):
            shown = f"{float(row['p99_ttft_ms']) / 1e3:,.2f} ±{float(row['p99_ttft_ms_ci95']) / 1e3:,.2f}"
            assert shown in text
    assert "num_prompts 8" in text
    assert "The rule, on means over seeds: lowest P99 TTFT" in text
    assert "tokenflow run --policy mine.py:<b>" in text
    assert "policy: it raised" in text
    assert "over vllm · 8" in text
    assert "0.75 ±0.06" in text
    assert "tokenflow sweep study/study.yaml -o NEW_DIR" in text
    assert "tokenflow run --policy vllm --seed 0" in text
    assert "name: <loads>" in text
    assert len(read.all("img")) == 1
    assert not read.all("script")


def test_a_sweeps_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn from what tokenflow sweep itself keeps: all seeds of a combination together."""
    Path("s.yaml").write_text("base: {num_prompts: 9, input_len: constant:200, output_len: 'normal:150:40', kv_tokens: 1500}\n"
                              "axes: {policy: [vllm, tokenflow], load: {fast: {arrival: burst}, slow: {request_rate: 2}}}\n"
                              "seeds: 3\n")
    done("sweep s.yaml -o study --jobs 1")
    drawn: dict[str, Any] = {}
    real = report_curves._figure

    def keep(panels: Any, labels: Any) -> Any:
        drawn.update(panels)
        return real(panels, labels)
    with monkeypatch.context() as watched:
        watched.setattr("sim.report_curves._figure", keep)
        report_sweep.page(Path("study"))
    assert [(group, list(each)) for group, each in drawn.items()] == [
        (group, ["vllm", "tokenflow"]) for group in ("fast", "slow")]
    for policy in ("vllm", "tokenflow"):
        traces = [generate(9, input_len=200, output_len="normal:150:40", seed=seed) for seed in (1, 2, 3)]
        waited = np.concatenate([simulate(policy, trace, kv_tokens=1500).requests["ttft_s"] for trace in traces])
        told = drawn["fast"][policy].told["ttft_s"]
        assert len(told) == 3 * 101
        for second in (np.median(waited), np.quantile(waited, 0.8)):        # whichever way ties are counted, to a request in nine
            assert np.mean(told < second * (1 - 1e-5)) <= np.mean(waited <= second) + 0.12
            assert np.mean(told <= second * (1 + 1e-5)) >= np.mean(waited < second) - 0.12
        assert told.max() == pytest.approx(waited.max(), rel=1e-5)
    done("report study")
    read = Reader(Path("study/report.html").read_text())
    assert len(read.all("img")) == 2
    assert "first token within" in said("study/report.html")


def test_a_sweep_of_which_every_run_failed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text("class Mine:\n    def plan(self, view):\n        raise KeyError('lost')\n")
    Path("s.yaml").write_text("base: {num_prompts: 3, policy: 'mine.py:Mine'}\n")
    assert main(["sweep", "s.yaml", "-o", "study", "--jobs", "1"]) == 1
    done("report study")
    assert "KeyError: 'lost'" in said("study/report.html")
    with pytest.raises(BadInput, match="no run came to its end"):
        load_study("study").plot_pareto()


@pytest.mark.parametrize("spread", [1.05, 1.7, 4, 8, 30, 500])
def test_the_ticks_of_a_small_panel_keep_apart(spread: float) -> None:
    from matplotlib.figure import Figure
    with own_look():
        figure = Figure(figsize=(5, 2.4), dpi=100)
        axes = figure.subplots(1, 2)[0]
        pareto(axes, [Mark("a", 0.041, 5), Mark("b", 0.041 * spread, 4)], ["a", "b"], more_is_better=True)
        figure.draw_without_rendering()
        low, high = axes.get_xlim()
        ticks = zip(axes.get_xticks(), axes.get_xticklabels())
        boxes = [label.get_window_extent() for place, label in ticks if low <= place <= high]
    assert len(boxes) >= 1
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


def test_a_sweep_with_one_seed_has_no_intervals() -> None:
    swept(Path("study"), seeds=1)
    done("report study")
    text = said("study/report.html")
    assert "±0" not in text
    assert "nan" not in text.lower()


def test_policies_are_compared_on_the_same_load() -> None:
    sweep = read_sweep(swept(Path("study")))
    assert sweep.policies() == ["vllm", "vllm", "tokenflow", "tokenflow"]
    assert sweep.groups() == ["num_prompts 8", "num_prompts 16"] * 2


def test_the_front_is_what_no_other_beats_in_both() -> None:
    marks = [Mark("a", 1, 5), Mark("b", 2, 4), Mark("c", 3, 9), Mark("d", 3, 8), Mark("e", 0.5, 1)]
    assert [mark.label for mark in front(marks, more_is_better=True)] == ["e", "a", "c"]
    assert [mark.label for mark in front(marks, more_is_better=False)] == ["e"]


# ---- what cannot be read

def _cut(path: str, characters: int = -20) -> Callable[[], None]:
    return lambda: (Path(path).write_text(Path(path).read_text()[:characters]), None)[1]


def _change(path: str, **wrong: Any) -> Callable[[], None]:
    def change() -> None:
        facts = json.loads(Path(path).read_text())
        Path(path).write_text(json.dumps({key: value for key, value in (facts | wrong).items() if value != "gone"}))
    return change


def _lines(path: str, lines: int) -> Callable[[], None]:
    return lambda: (Path(path).write_text("".join(Path(path).read_text().splitlines(keepends=True)[:lines])), None)[1]


BAD: list[tuple[str, Callable[[], Any], str]] = [
    ("nosuch", lambda: None, r"report: nosuch: there is no such directory"),
    ("out/vllm/run.json", lambda: None, r"report: out/vllm/run.json: is not a directory"),
    ("empty", lambda: Path("empty").mkdir(), r"report: empty: holds no results: neither run.json"),
    ("out", _cut("out/vllm/run.json"), r"result: out/vllm/run.json: cannot be read: "),
    ("out", lambda: Path("out/vllm/run.json").write_text("[" * 100_000), r"result: out/vllm/run.json: cannot be read: "),
    ("out", lambda: Path("out/vllm/run.json").write_bytes(b"\xff\xfe"), r"result: out/vllm/run.json: cannot be read: "),
    ("out", _cut("out/vllm/requests.csv"), r"result: out/vllm/requests.csv: is empty, or was cut short"),
    ("out", _lines("out/vllm/requests.csv", 9), r"result: out/vllm/(run.json: itls|requests.csv: has 8 requests, run.json 12)"),
    ("out", lambda: Path("out/vllm/requests.csv").unlink(), r"result: out/vllm/requests.csv: cannot be read: .*"),
    ("out", lambda: shutil.rmtree("out/vllm"), r"report: out: compare.json names vllm, whose folder is not there"),
    ("out", _cut("out/vllm/timeline.csv"), r"result: out/vllm/timeline.csv: is empty, or was cut short"),
    ("out", lambda: Path("out/vllm/timeline.csv").write_text("start_s\n0\n"),
     r"result: out/vllm/timeline.csv: has no column queued"),
    ("out", _change("out/vllm/run.json", mean_qoe="gone", tokenflow_lab="0.0.1"),
     r"result: out/vllm/run.json: has no mean_qoe: it was written by another version \(0.0.1\); run it again"),
    ("out", _change("out/vllm/run.json", workload="gone"),
     r"result: out/vllm/run.json: has no workload: it was written by another"),
    ("out", _change("out/vllm/run.json", p99_ttft_ms="soon"), r"result: out/vllm/run.json: p99_ttft_ms: 'soon' is not a number"),
    ("out", _change("out/vllm/run.json", itls=[[0.1]] * 12), r"result: out/vllm/run.json: itls: not the tokens of the requests in"),
    ("out", lambda: Path("out/host.json").write_text("{"), r"result: out/host.json: cannot be read: "),
    ("out -o page.txt", lambda: None, r"output file: page.txt: must end in .html"),
    ("out -o nosuch/page.html", lambda: None, r"output file: nosuch/page.html: cannot be written: there is no such folder"),
    ("out -o out/vllm", lambda: None, r"output file: out/vllm: must end in .html"),
    ("out extra", lambda: None, r"command line: tokenflow report: Got unexpected extra argument"),
    ("", lambda: None, r"DIR: tokenflow report: is required"),
    ("study", lambda: Path("study/summary.csv").unlink(), r"report: study: holds a sweep without summary.csv: it was interrupted"),
    ("study", _cut("study/summary.csv", -200), r"result: study/summary.csv: is empty, or was cut short"),
    ("study", lambda: Path("study/summary.csv").write_text("a,b\n1,2\n"), r"result: study/summary.csv: has other columns"),
    ("study", lambda: Path("study/summary.csv").write_text("combination,policy,runs,p99_ttft_ms\nx,vllm,1,soon\n"),
     r"result: study/summary.csv: column p99_ttft_ms: .*soon"),
    ("study", lambda: Path("study/paired.csv").write_text("x\n1\n"), r"result: study/paired.csv: has other columns"),
    ("study", lambda: Path("study/paired.csv").write_text(Path("study/paired.csv").read_text().replace("0.75", "less")),
     r"result: study/paired.csv: tokenflow · 8, p99_ttft_ms: .*less"),
    ("study", lambda: Path("study/failures.csv").write_text("x\n1\n"), r"result: study/failures.csv: has other columns"),
]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What commands leave, made once."""
    root, here = tmp_path_factory.mktemp("left"), os.getcwd()
    os.chdir(root)
    try:
        done(f"compare {SMALL} --policies vllm,tokenflow --save-timeline --save-detailed -o out")
        swept(Path("study"))
    finally:
        os.chdir(here)
    return root


@pytest.mark.parametrize(("words", "spoil", "line"), BAD, ids=[f"{i} {words}" for i, (words, _, _) in enumerate(BAD)])
def test_bad_input_is_one_line_and_writes_nothing(words: str, spoil: Callable[[], Any], line: str, inside: Path, left: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(left, inside, dirs_exist_ok=True)
    spoil()
    capsys.readouterr()
    before = sorted(map(str, inside.rglob("*")))
    assert main(["report", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert re.match(f"tokenflow: {line}", err), err
    assert sorted(map(str, inside.rglob("*"))) == before
