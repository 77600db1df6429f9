"""`tokenflow reproduce`: its items and claims, its directory, what it refuses; and all of it, quickly."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

import sim.reproduce.kept
from sim.cli import main
from sim.reproduce.claims import CLAIMS
from sim.reproduce.items import ITEMS, chosen
from sim.reproduce.items.without_runs import ITEMS as WITHOUT_RUNS
from sim.reproduce.runs import LEDGER, Run, merged
from sim.reproduce.setups import How
from sim.workloads import WORKLOADS
from traces import BadInput

pytestmark = pytest.mark.unaudited

FIGURES = (1, 2, 6, 8, *range(10, 24))
NAMES = {*(f"fig{n}" for n in FIGURES), "table1", "table2", "overhead", "gains", "sens-length", "sens-host", "sens-pcie",
         "sens-belief", "sens-rates"}
VERDICTS = {"holds", "direction holds", "does not hold", "not testable"}


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def test_every_claim_of_the_list_has_an_item() -> None:
    """Of the 16 claims that the paper makes, as we count them; Ascend has a row that says why not."""
    assert {claim.number for claim in CLAIMS} >= set(range(1, 17))
    assert {claim.item for claim in CLAIMS} <= set(ITEMS)
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)


def test_a_claim_says_what_it_compares() -> None:
    for claim in CLAIMS:
        if claim.kind in ("best", "every"):
            assert claim.metric in sim.reproduce.kept.SUMMARY
            assert claim.up in (-1, 1)
            assert claim.rows
        elif claim.kind in ("at least", "near"):
            assert claim.metric in sim.reproduce.kept.SUMMARY
            assert claim.bound > 0
        elif claim.kind == "untestable":
            assert claim.reason


@pytest.mark.parametrize(("claim", "ratio"), [
    ("burst-p99", 1 - 0.802), ("burst-ttft", 1 - 0.484), ("burst-effective", 1.529), ("poisson-effective", 1.825),
    ("poisson-ttft", 1 - 0.537), ("fig12-effective", 1.371), ("fig13-effective", 1.451), ("fig12-ttft", 1 - 0.526),
    ("fig13-p50", 1 - 0.887), ("table2-offload", 127.28 / 66), ("table2-write-through", 82.76 / 66), ("table2-overlap", 74.43 / 66),
    ("table2-intro", 1 - 0.203)])
def test_published_figures(claim: str, ratio: float) -> None:
    found, = (each for each in CLAIMS if each.id == claim)
    assert found.published == pytest.approx(ratio)


def test_items_and_all() -> None:
    assert set(ITEMS) == NAMES | {"second-reading"}
    assert [item.name for item in chosen([])] == [item.name for item in chosen(["all"])] == [name for name in ITEMS
                                                                                           if name != "second-reading"]
    assert [item.name for item in chosen(["table2", "fig1"])] == ["fig1", "table2"]
    assert "second-reading" in [item.name for item in chosen(["all", "second-reading"])]


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list"]) == 0
    out = capsys.readouterr().out
    for name in ITEMS:
        assert re.search(rf"^ {name} .*\d$|^ {name} ", out, re.MULTILINE), name


def test_items_share_their_runs() -> None:
    how = How(seeds=3)
    wanted = [run for item in chosen(["fig16", "fig17", "gains"]) for run in item.runs(how)]
    assert len(merged(wanted)) < len(wanted)


def test_quick_runs_are_smaller() -> None:
    def requests(quick: bool) -> int:
        run, *_ = ITEMS["fig17"].runs(How(seeds=1, quick=quick))
        return int(dict(run.requests).get("num_prompts", WORKLOADS[run.workload].num_prompts))
    assert requests(quick=True) == 120
    assert requests(quick=False) == 600


@pytest.mark.parametrize(("words", "said"), [
    (["fig61"], r"reproduce: 'fig61': unknown item; did you mean 'fig\d+'\? tokenflow reproduce --list shows all"),
    (["Table2x"], "reproduce: 'Table2x': unknown item; did you mean 'table2'\\? .*"),
    (["fig6", "--seeds", "0"], "--seeds: 0: must be a whole number from 1 to 1000"),
    (["fig6", "--seeds", "two"], "--seeds: .*"),
    (["fig6", "--jobs", "0"], "--jobs: 0: must be a whole number from 1 to 1024"),
    (["fig6", "--burstgpt", "nowhere.csv"], "--burstgpt: nowhere.csv: there is no such file"),
    (["fig12", "--burstgpt", "bad.csv"], ".*bad.csv.*"),
    (["fig6", "--resume"], "--resume: command line: says of no directory what to resume: give -o DIR as well"),
    (["fig6", "--resume", "-o", "new"], "--resume: new: holds no interrupted run"),
    (["fig6", "-o", "taken"], "output directory: taken: is not empty; results are never overwritten"),
    (["fig6", "-o", "file"], "output directory: file: is a file"),
    (["fig6", "-o", "begun"], "output directory: begun: holds an interrupted run; --resume completes it"),
    (["fig6", "--resume", "-o", "begun"], "--resume: begun/runs.jsonl: its runs are from other code than this; begin anew "
                                          "elsewhere"),
])
def test_bad_input_is_one_line(words: list[str], said: str, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (inside / "bad.csv").write_text("a,b\n1,2\n")
    (inside / "file").write_text("x")
    (inside / "taken").mkdir()
    (inside / "taken/other").write_text("x")
    (inside / "begun").mkdir()
    (inside / "begun" / LEDGER).write_text('{"code": "old"}\n')
    before = sorted(path.relative_to(inside) for path in inside.rglob("*"))
    assert main(["reproduce", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"tokenflow: {said}\n", err), err
    assert sorted(path.relative_to(inside) for path in inside.rglob("*")) == before


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every workload with a dozen short requests, and two rows of the frontier."""
    real = Run.trace

    def trace(self: Run) -> object:
        return real(self).window(limit=8)
    monkeypatch.setattr(Run, "trace", trace)


def test_a_figure_end_to_end(small: None, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "fig16", "--seeds", "2", "--jobs", "1", "-o", "out"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[-1] == "out/reproduction.md"
    assert sorted(os.listdir("out")) == ["fig16.png", "host.json", "reproduction.json", "reproduction.md", "runs.jsonl"]
    found = json.loads(Path("out/reproduction.json").read_text())
    rows = found["claims"]
    assert {row["claim"] for row in rows} == {claim.id for claim in CLAIMS if claim.item == "fig16"}
    assert {row["verdict"] for row in rows} <= VERDICTS
    p99 = [row for row in rows if row["claim"] == "burst-p99"]
    assert {(row["policy"], row["baseline"]) for row in p99} == {(policy, baseline) for policy in ("tokenflow", "tokenflow-paper")
                                                                 for baseline in ("sglang", "andes")}
    for row in p99:
        assert row["published"] == 0.198
        assert set(row["to_controls"]) == {"sglang-ratecap", "fcfs-offload"}
        assert row["rebuffer_s"] is not None
        assert row["ours"]["n"] == 2
    page = Path("out/reproduction.md").read_text()
    assert "-80.2 %" in page
    assert all(row["why"] for row in rows if row["verdict"] == "does not hold")
    assert "![" in page


def test_the_same_command_gives_the_same_json(small: None, inside: Path) -> None:
    for folder, jobs in (("one", "1"), ("two", "1")):
        assert main(["reproduce", "table2", "fig6", "--quick", "--jobs", jobs, "-o", folder]) == 0
    assert (inside / "one/reproduction.json").read_bytes() == (inside / "two/reproduction.json").read_bytes()
    assert (inside / "one/table2.png").read_bytes() == (inside / "two/table2.png").read_bytes()


def test_interrupted_and_resumed(small: None, inside: Path, monkeypatch: pytest.MonkeyPatch,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "table2", "--quick", "--jobs", "1", "-o", "whole"]) == 0
    real, seen = sim.reproduce.kept.simulated, []

    def simulated(run: Run) -> object:
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)
        seen.append(run.key)
        return real(run)
    monkeypatch.setattr(sim.reproduce.kept, "simulated", simulated)
    assert main(["reproduce", "table2", "--quick", "--jobs", "1", "-o", "cut"]) == 130
    assert os.listdir("cut") == [LEDGER]
    monkeypatch.setattr(sim.reproduce.kept, "simulated", lambda run: (seen.append(run.key), real(run))[1])
    assert main(["reproduce", "table2", "--quick", "--jobs", "1", "--resume", "-o", "cut"]) == 0
    assert len(seen) == len(set(seen)) == len(merged(ITEMS["table2"].runs(How(1, quick=True))))
    assert (inside / "cut/reproduction.json").read_bytes() == (inside / "whole/reproduction.json").read_bytes()
    capsys.readouterr()
    assert main(["reproduce", "table2", "--quick", "--resume", "-o", "cut"]) == 2
    assert capsys.readouterr().err == "tokenflow: output directory: cut: holds finished results; results are never overwritten\n"


def test_a_real_file_takes_the_place_of_drawn_requests(small: None, inside: Path) -> None:
    lines = ["Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"]
    lines += [f"{5 + 400 * i},ChatGPT,{20 + i},{30 + i},{50 + 2 * i},Conversation log" for i in range(40)]
    Path("burst.csv").write_text("\n".join(lines) + "\n")
    assert main(["reproduce", "fig14", "--quick", "--jobs", "1", "--burstgpt", "burst.csv", "-o", "out"]) == 0
    assert "those of burst.csv, its busiest 20 minutes from 5 s on" in Path("out/reproduction.md").read_text()
    runs = [json.loads(line) for line in Path("out", LEDGER).read_text().splitlines()[1:]]
    assert {run["run"]["seed"] for run in runs} == {1}


def test_what_needs_no_runs_says_why() -> None:
    assert {item.name for item in WITHOUT_RUNS} == {"table1", "fig11", "fig21", "overhead"}
    with pytest.raises(BadInput):
        chosen(["fig7"])


@pytest.mark.slow
def test_everything_end_to_end(small: None, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every item, on eight requests: each claim gets a verdict, each figure is drawn."""
    assert main(["reproduce", "all", "second-reading", "--quick", "--jobs", "1", "-o", "out"]) == 0
    found = json.loads(Path("out/reproduction.json").read_text())
    assert {row["claim"] for row in found["claims"]} == {claim.id for claim in CLAIMS}
    assert {row["verdict"] for row in found["claims"]} <= VERDICTS
    drawn = {name for name in os.listdir("out") if name.endswith(".png")}
    page = Path("out/reproduction.md").read_text()
    assert drawn == set(re.findall(r"\]\((\S+\.png)\)", page))
    for name in ITEMS:
        assert f"## {name}: " in page
