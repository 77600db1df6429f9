"""`tokenflow demo`, with fewer requests: what it prints and leaves behind, where it can run, and that it goes without a trace."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import sim.demo
from sim.cli import main
from sim.workloads import WORKLOADS

pytestmark = pytest.mark.unaudited

FIGURES = ["ttft.png", "rebuffering.png", "tokens.png", "requests.png", "memory.png", "pareto.png"]
THREE = """import sys
from dataclasses import replace
from sim.workloads import WORKLOADS
WORKLOADS["burst-80"] = replace(WORKLOADS["burst-80"], num_prompts=3)"""


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setitem(WORKLOADS, "burst-80", replace(WORKLOADS["burst-80"], num_prompts=5))
    return tmp_path


def test_table_figures_and_report(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-7:] == [f"tokenflow-out/demo-1/{name}" for name in (*FIGURES, "report.html")]
    for policy in sim.demo.POLICIES:
        assert policy in out
    assert re.search(r"TTFT mean, s .* x\d", out)
    there = {*FIGURES, "report.html", "compare.json", "compare.csv", "host.json", *sim.demo.POLICIES}
    assert set(os.listdir("tokenflow-out/demo-1")) == there
    assert set(os.listdir("tokenflow-out/demo-1/tokenflow")) == {"run.json", "requests.csv", "timeline.csv"}
    report = Path("tokenflow-out/demo-1/report.html").read_text()
    for policy in sim.demo.POLICIES:
        assert policy in report
    assert report.count("<img ") == 6
    assert os.listdir("tokenflow-out") == ["demo-1"]


def test_the_command_that_it_names_gives_the_same_again(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--seed", "3", "-o", "here"]) == 0
    same, command = (re.sub("<.*?>", "", said) for said in re.findall(r"<pre>(.*?)</pre>", Path("here/report.html").read_text()))
    assert same == "tokenflow demo --seed 3"
    program, *words = shlex.split(command)
    assert program == "tokenflow"
    assert main([*words, "-o", "there"]) == 0
    for file in ("compare.json", "compare.csv", "tokenflow/run.json", "tokenflow/timeline.csv", "vllm/requests.csv"):
        assert (small / "here" / file).read_bytes() == (small / "there" / file).read_bytes()
    assert json.loads(Path("here/compare.json").read_text())["policies"]["vllm"]["seed"] == 3


def test_same_seed_same_bytes(small: Path) -> None:
    assert main(["demo", "-o", "one"]) == main(["demo", "-o", "two"]) == main(["demo", "--seed", "1", "-o", "other"]) == 0
    for file in ("report.html", *FIGURES, "compare.json"):
        assert (small / "one" / file).read_bytes() == (small / "two" / file).read_bytes()
        assert (small / "one" / file).read_bytes() != (small / "other" / file).read_bytes()


def test_without_a_home_a_display_or_a_cache(small: Path) -> None:
    """Matplotlib would like to write its font cache somewhere, and says so at length."""
    script = f"{THREE}\nfrom sim.cli import main; sys.exit(main(['demo', '-o', 'out']))"
    bare = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLCONFIGDIR", "XDG_CONFIG_HOME",
                                                                             "XDG_CACHE_HOME", "MPLBACKEND")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          env=bare | {"HOME": "/dev/null/home", "PYTHONPATH": str(Path(__file__).parents[1])})
    assert (done.returncode, done.stderr) == (0, "")
    assert "out/report.html" in done.stdout
    assert (small / "out/tokens.png").stat().st_size > 10_000


def test_a_backend_that_matplotlib_does_not_know(small: Path) -> None:
    script = f"{THREE}\nfrom sim.cli import main; sys.exit(main(['demo']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          env=os.environ | {"MPLBACKEND": "nonsense", "PYTHONPATH": str(Path(__file__).parents[1])})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "tokenflow: MPLBACKEND: nonsense: matplotlib does not know it\n"
    assert os.listdir(small) == []


@pytest.mark.parametrize("moment", ["policies.vllm.Vllm.plan", "sim.plots.ttft_cdf", "sim.report.page"])
def test_interrupted_it_leaves_nothing(moment: str, small: Path, capsys: pytest.CaptureFixture[str],
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)
    if moment == "sim.plots.ttft_cdf":
        monkeypatch.setitem(sim.plots.DRAWINGS, "ttft", ("", "", interrupt))
    else:
        monkeypatch.setattr(moment, interrupt)
    assert main(["demo"]) == 130
    assert capsys.readouterr() == ("", "tokenflow: interrupted\n")
    assert os.listdir(small) == []


def test_a_place_that_is_taken_costs_no_simulation(small: Path, capsys: pytest.CaptureFixture[str],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    (small / "taken").mkdir()
    (small / "taken/file").write_text("x")
    monkeypatch.setattr("policies.vllm.Vllm.plan", None)
    assert main(["demo", "-o", "taken"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "tokenflow: output directory: taken: is not empty; results are never overwritten\n")
    assert os.listdir(small) == ["taken"]
