"""`tokenflow-calibrate compare`: folders of the simulator beside folders of replays, in which time is made up."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from math import inf
from pathlib import Path

import pytest
from made_engine import Made, made, result

from calibrate.cli import main
from calibrate.replay_result import SERVER
from sim import cli
from sim.latency import LatencyModel
from sim.machine import Machine
from sim.saving import Draft, write_comparison
from sim.simulate import simulate
from sim.winner import RULE
from traces import Trace, make_trace

STEP_S = 0.1        # of every step, whatever is in it
MACHINE = Machine(LatencyModel(STEP_S, 0.0, 0.0, 0.0, 0.0, 1.0), 1000, 1000)
POLICIES = ("vllm", "tokenflow")


def trace(requests: int = 6) -> Trace:
    return make_trace([0.3 * i for i in range(requests)], 20, [5 + i for i in range(requests)])


def simulated(folder: Path, policies: tuple[str, ...] = POLICIES, requests: int = 6) -> Path:
    results = {policy: simulate(policy, trace(requests), MACHINE, timeline=True) for policy in policies}
    with Draft(folder, "compare") as draft:
        write_comparison(draft, results, detailed=True)
        return draft.publish()


def measured(folder: Path, label: str = "stock", step_s: float = STEP_S, requests: int = 6, emulated: bool = False) -> Path:
    played = made(trace(requests), Made(step_s=step_s))
    return result(trace(requests), played, label, emulated=emulated).save(folder, detailed=True)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compared(*folders: str, code: int = 0) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    assert main(["compare", *folders, "-o", "out"]) == code
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = json.loads(Path("out/compare.json").read_text())
    return found


def test_one_policy_exactly_as_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    simulated(Path("sim"))
    measured(Path("real"))
    found = compared("sim/vllm", "real")
    metrics = found["policies"]["stock"]["metrics"]
    # a step takes 0.1 s in both, but arrivals in mid-step meet other steps: within a step of each other
    assert abs(metrics["mean_tpot_ms"]["error"]) < 1e-6        # type: ignore[call-overload, index]
    assert metrics["duration"]["ok"]                            # type: ignore[call-overload, index]
    said = capsys.readouterr().out
    assert "stock (simulated: vllm)" in said
    assert "10 %: ok" in said
    assert found["status"] == "measured"
    assert max(map(len, said.splitlines())) <= 80


def test_an_error_is_predicted_over_measured(capsys: pytest.CaptureFixture[str]) -> None:
    simulated(Path("sim"))
    measured(Path("real"), step_s=2 * STEP_S)
    metrics = compared("sim/vllm", "real")["policies"]["stock"]["metrics"]
    assert metrics["mean_tpot_ms"]["error"] == pytest.approx(-0.5)      # type: ignore[call-overload, index]
    assert metrics["mean_tpot_ms"]["ok"] is False                       # type: ignore[call-overload, index]
    assert "NOT OK" in capsys.readouterr().out


def test_policies_are_paired_by_name_and_repeats_give_medians(capsys: pytest.CaptureFixture[str]) -> None:
    simulated(Path("sim"), ("vllm", "sglang", "tokenflow"))
    for i, step_s in enumerate((0.1, 0.11, 0.3)):
        Path(f"real{i}").mkdir()
        measured(Path(f"real{i}/a"), "stock", step_s)
        measured(Path(f"real{i}/b"), "tokenflow", 1.05 * step_s, emulated=True)
        measured(Path(f"real{i}/c"), "mine")
    found = compared("sim", "real0", "real1", "real2")
    assert list(found["policies"]) == ["stock", "tokenflow"]
    stock = found["policies"]["stock"]["metrics"]["mean_tpot_ms"]
    assert [stock[name] for name in ("low", "measured", "high")] == pytest.approx([100.0, 110.0, 300.0])   # type: ignore[index]
    assert len(found["policies"]["stock"]["measured"]) == 3
    effect = found["effects"]["tokenflow"]["mean_tpot_ms"]
    assert effect["measured"] == pytest.approx(1.05)
    assert found["alone"] == ["only simulated: sglang", "only measured: mine"]
    assert "emulated link" in str(found["status"])
    said = capsys.readouterr().out
    assert "medians of 3 runs" in said
    assert "emulated link" in said
    assert found["winner_rule"] == RULE
    assert set(found["winner"]) == {"simulated", "measured"}


def test_a_server_whose_policy_nobody_named_is_held_against_the_one_simulation() -> None:
    simulated(Path("sim"))
    measured(Path("real"), SERVER)
    assert compared("sim/tokenflow", "real")["policies"][SERVER]["simulated_as"] == "tokenflow"     # type: ignore[comparison-overlap]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]


def test_the_page_stands_alone() -> None:
    simulated(Path("sim"))
    Path("real").mkdir()
    measured(Path("real/a"), "stock")
    measured(Path("real/b"), "tokenflow", emulated=True)
    compared("sim", "real")
    text = Path("out/compare.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.tags.count("img") == 6      # at a glance, TTFT, TPOT, rebuffering, first tokens, tokens: no time line was kept
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert 'name="viewport"' in text
    assert "emulated link" in text
    assert "NOT OK" in text or ": ok" in text
    assert Path("out/overview.png").read_bytes().startswith(b"\x89PNG")


def test_a_simulation_without_lists_does_without_the_tokens() -> None:
    assert cli.main(["run", "--policy", "vllm", "--num-prompts", "3", "--output-len", "constant:5", "-o", "sim"]) == 0
    played = made(_three(), Made())
    result(_three(), played).save(Path("real"), detailed=True)
    compared("sim", "real")
    assert Path("out/compare.html").read_text().count("<img ") == 5


def _three() -> Trace:
    return make_trace([0.0] * 3, 512, 5)


def test_without_a_folder_nothing_is_kept(inside: Path) -> None:
    simulated(Path("sim"))
    measured(Path("real"))
    assert main(["compare", "sim/vllm", "real"]) == 0
    assert sorted(path.name for path in inside.iterdir()) == ["real", "sim"]


BAD = [
    ("nosuch real", r"result: nosuch: there is no such folder"),
    ("sim empty", r"result: empty: holds no run.json, nor do the folders in it"),
    ("sim twice", r"result: twice: holds several runs of one policy"),
    ("sim other", r"compare: sim: has vllm, tokenflow; measured were mine: none of them is in both"),
    ("sim more", r"compare: more: is of other requests than sim/vllm"),
    ("sim broken", r"result: broken/run.json: cannot be read: "),
    ("sim foreign", r"result: foreign/run.json: has no policy: is it one of tokenflow\?"),
    ("sim cut", r"result: cut/requests.csv: is empty, or was cut short"),
    ("sim real -o sim", r"output directory: sim: is not empty"),
    ("sim sim", r"compare: sim: has simulations: REAL_DIR is what tokenflow-calibrate replay has written"),
    ("sim/vllm sim/tokenflow", r"compare: sim/tokenflow: has simulations: "),
    ("real real", r"compare: real: has measurements: SIM_DIR is what tokenflow run or compare has written"),
    ("sim real sim", r"compare: sim: has simulations: "),
    ("sim/tokenflow real", r"compare: sim/tokenflow: has tokenflow; measured were stock: none of them is in both"),
    ("sim worded", r"result: worded/run.json: output_throughput: 'x' is not a number"),
    ("sim listed", r"result: listed/run.json: itls: \[0.1\] is not one list of numbers a request"),
    ("sim endless", r"result: endless/run.json: mean_ttft_ms: inf is not a number"),
    ("sim", r"REAL_DIR...: .*"),
]


@pytest.mark.parametrize(("words", "line"), BAD, ids=[words for words, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(words: str, line: str, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulated(Path("sim"))
    for name in ("real", "twice/a", "twice/b", "broken", "foreign", "cut"):
        Path(name).parent.mkdir(exist_ok=True)
        measured(Path(name))
    measured(Path("other"), "mine")
    measured(Path("more"), requests=7)
    Path("empty").mkdir()
    Path("broken/run.json").write_text("{")
    Path("foreign/run.json").write_text("{}")
    Path("cut/requests.csv").write_text(Path("cut/requests.csv").read_text()[:-20])
    for name, wrong in (("worded", {"output_throughput": "x"}), ("listed", {"itls": [0.1]}), ("endless", {"mean_ttft_ms": inf})):
        run = measured(Path(name)) / "run.json"
        run.write_text(json.dumps(json.loads(run.read_text()) | wrong))
    before = sorted(map(str, inside.rglob("*")))
    assert main(["compare", *words.split()]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.match(f"tokenflow-calibrate: {line}", err), err
    assert sorted(map(str, inside.rglob("*"))) == before
