"""A study's runs are those of `tokenflow run`; its tables follow from them, and are the same bytes whatever happened on the way."""

from __future__ import annotations

import csv
import json
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sim.cli import main
from sim.study.design import combinations
from sim.study.plan import plan
from sim.study.study import read_study

pytestmark = pytest.mark.unaudited

REQUESTS: dict[str, Any] = {"num_prompts": 6, "input_len": "normal:60:9", "output_len": "normal:50:9", "kv_tokens": 1600}
STUDY: dict[str, Any] = {
    "name": "small",
    "base": REQUESTS,
    "axes": {"policy": ["sglang", "vllm", "tokenflow[interval_s=0.5]"],
             "load": {"even": {"request_rate": 4}, "burst": {"arrival": "burst"}}},
    "seeds": 3,
}
COMMAND = "import sys; from sim.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(study: dict[str, Any], name: str = "s.yaml") -> str:
    import yaml
    Path(name).write_text(yaml.safe_dump(study, sort_keys=False))
    return name


def swept(study: dict[str, Any], folder: str, *words: str) -> int:
    return main(["sweep", written(study), "-o", folder, *words])


def rows(file: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(file).read_text().splitlines()))


def files(folder: str) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*")
            if path.is_file() and path.name != "host.json"}


# ---- what is asked for

def test_every_combination_with_every_seed() -> None:
    made = plan(read_study(STUDY))
    assert len(made.runs) == 3 * 2 * 3
    assert len(set(made.keys)) == 18
    assert [str(each) for each in made.combinations][:3] == ["sglang · even", "sglang · burst", "vllm · even"]
    assert [run.seed for run in made.runs][:4] == [1, 2, 3, 1]


def test_the_same_seed_gives_every_policy_the_same_requests() -> None:
    made = plan(read_study(STUDY))
    for load in ("even", "burst"):
        for seed in (1, 2, 3):
            traces = {id(run.trace) for run in made.runs if run.combination.labels["load"] == load and run.seed == seed}
            assert len(traces) == 1


def test_a_list_multiplies_with_axes() -> None:
    made = combinations(read_study({"base": REQUESTS, "axes": {"policy": ["vllm", "sglang"]}, "list": [
        {"hardware": "h200", "model": "qwen2-7b"}, {"hardware": "a100"}]}))
    assert [str(each) for each in made] == ["vllm · h200 · qwen2-7b", "vllm · a100", "sglang · h200 · qwen2-7b", "sglang · a100"]
    assert made[1].options("s", 4).hardware == "a100"


def test_arguments_of_the_policy_are_an_axis_like_any_other() -> None:
    made = combinations(read_study({"base": REQUESTS | {"policy": "tokenflow", "policy_arg": {"offload": False}},
                                    "axes": {"policy_arg.interval_s": [0.1, 0.5]}}))
    assert [each.options("s", 1).policy_arg for each in made] == [
        ["offload=false", "interval_s=0.1"], ["offload=false", "interval_s=0.5"]]


def test_a_latin_hypercube_has_one_sample_in_every_part_of_every_range() -> None:
    ranges = {"link": [4, 32, "log"], "kv_tokens": [20000, 80000], "policy_arg.interval_s": [0.1, 1.0]}
    study = {"base": REQUESTS | {"policy": "tokenflow"}, "latin_hypercube": {"samples": 16, "seed": 3, "ranges": ranges}}
    made = combinations(read_study(study))
    drawn = {name: np.array([each.flags[name] for each in made]) for name in ranges}
    assert sorted(np.floor(16 * np.log(drawn["link"] / 4) / np.log(8) + 1e-3).astype(int)) == list(range(16))
    assert sorted(np.floor(16 * (drawn["kv_tokens"] - 20000) / 60001).astype(int)) == list(range(16))
    assert all(isinstance(each.flags["kv_tokens"], int) for each in made)
    assert np.corrcoef(drawn["link"], drawn["kv_tokens"])[0, 1] < 0.9
    assert [each.flags for each in combinations(read_study(study))] == [each.flags for each in made]
    study["latin_hypercube"]["seed"] = 4
    assert [each.flags for each in combinations(read_study(study))] != [each.flags for each in made]


def test_requests_that_no_seed_changes_are_run_once(capsys: pytest.CaptureFixture[str]) -> None:
    Path("trace.csv").write_text("arrival_s,input_tokens,output_tokens\n0,60,50\n1,50,40\n")
    study = {"axes": {"load": {"file": {"trace": "trace.csv"}, "drawn": REQUESTS}}, "seeds": 4}
    assert swept(study, "out") == 0
    assert {row["combination"]: row["runs"] for row in rows("out/summary.csv")} == {"file": "1", "drawn": "4"}
    assert "1 combination run once: for every seed the requests are the same" in " ".join(capsys.readouterr().out.split())


# ---- what comes of it

def test_runs_are_those_of_tokenflow_run(inside: Path) -> None:
    assert swept(STUDY, "out") == 0
    entries = {entry["key"]: entry for line in Path("out/runs.jsonl").read_text().splitlines()[1:] if (entry := json.loads(line))}
    table = rows("out/runs.csv")
    assert len(table) == len(entries) == 18
    for row in random.Random(1).sample(table, 4):
        entry = entries[row["key"]]
        alone = inside / row["key"]
        assert main([*shlex.split(entry["command"])[1:], "-o", str(alone)]) == 0
        assert json.loads((alone / "run.json").read_text()) == entry["facts"]
        assert float(row["p99_ttft_ms"]) == entry["facts"]["p99_ttft_ms"]
        assert entry["curves"]["ttft_s"][50] == pytest.approx(entry["facts"]["median_ttft_ms"] / 1000, rel=1e-5)
        assert len(entry["curves"]["rebuffer_s"]) == 101
    assert list(table[0])[:4] == ["policy", "load", "seed", "key"]


def test_intervals_are_students_over_seeds() -> None:
    assert swept(STUDY, "out") == 0
    table = rows("out/runs.csv")
    for row in rows("out/summary.csv"):
        own = [each for each in table if (each["policy"], each["load"]) == (row["policy"], row["load"])]
        for metric in ("mean_ttft_ms", "output_throughput"):
            values = [float(each[metric]) for each in own]
            assert float(row[metric]) == pytest.approx(np.mean(values))
            assert float(row[metric + "_ci95"]) == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem(values), rel=1e-4)
    assert {row["runs"] for row in rows("out/summary.csv")} == {"3"}


def test_policies_are_paired_with_the_first_on_the_same_seeds() -> None:
    assert swept(STUDY, "out") == 0
    table = {(row["policy"], row["load"], row["seed"]): float(row["mean_ttft_ms"]) for row in rows("out/runs.csv")}
    paired = [row for row in rows("out/paired.csv") if row["metric"] == "mean_ttft_ms"]
    assert [(row["combination"], row["baseline"]) for row in paired] == [
        ("vllm · even", "sglang · even"), ("tokenflow[interval_s=0.5] · even", "sglang · even"),
        ("vllm · burst", "sglang · burst"), ("tokenflow[interval_s=0.5] · burst", "sglang · burst")]
    for row in paired:
        policy, load = row["combination"].split(" · ")
        differences = [table[policy, load, seed] - table["sglang", load, seed] for seed in "123"]
        ratios = [table[policy, load, seed] / table["sglang", load, seed] for seed in "123"]
        assert float(row["difference"]) == pytest.approx(np.mean(differences))
        assert float(row["difference_ci95"]) == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem(differences), rel=1e-4)
        assert float(row["ratio"]) == pytest.approx(np.mean(ratios))


def test_rows_for_vllm() -> None:
    assert swept(STUDY, "out") == 0
    found = {path.parent.name: json.loads(path.read_text()) for path in Path("out").rglob("summary.json")}
    assert len(found) == 6
    for name, runs in found.items():
        assert [run["run_number"] for run in runs] == [0, 1, 2]
        assert all(run["tensor_parallel_size"] == 1 and 1 <= run["max_concurrent_requests"] <= 6 for run in runs)
        assert all(("request_rate" in run) == ("even" in name) for run in runs)
        assert {run["load"] for run in runs} == {"even" if "even" in name else "burst"}


def test_the_most_at_a_time_is_counted_as_vllm_does() -> None:
    """Its loop of serve.py, second by second."""
    from sim import simulate
    from sim.study.kept import max_concurrent
    from traces import generate
    for seed in range(5):
        result = simulate("vllm", generate(30, arrival="poisson", request_rate=2.0, output_len="normal:80:40", seed=seed))
        start_s, end_s = result.records.sent_s, result.records.last_s
        seconds = Counter(second for a, b in zip(start_s - start_s.min(), end_s - start_s.min())
                          for second in range(int(a), int(b) + 1))
        assert max_concurrent(result) == max(seconds.values())


def test_one_run_that_fails_among_many(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text("from policies import Vllm\n\nclass Fails(Vllm):\n    def plan(self, view):\n"
                               "        if view.prompt_tokens.max() > 73:\n            raise KeyError('lost')\n"
                               "        return super().plan(view)\n")
    study = STUDY | {"axes": {"policy": ["vllm", "mine.py:Fails"]}, "seeds": 6}
    assert swept(study, "out") == 1
    said = capsys.readouterr()
    failed = rows("out/failures.csv")
    assert 0 < len(failed) < 6
    assert len(rows("out/runs.csv")) == 12 - len(failed)
    assert f"{len(failed)} run" in said.err
    for row in failed:
        assert row["command"] in said.err
        assert re.search(r"mine.py:6 at \S+ s: KeyError: 'lost'", row["why"])
        assert main(shlex.split(row["command"])[1:]) == 2
        assert row["why"].split(" at ")[0] in capsys.readouterr().err
    # failed ones are tried again, and only these
    before = Path("out/runs.jsonl").read_bytes()
    assert swept(study, "out", "--resume") == 1
    assert Path("out/runs.jsonl").read_bytes() == before


def test_a_policy_that_is_mended(capsys: pytest.CaptureFixture[str]) -> None:
    """Its runs are others now; those of the other policies are not repeated."""
    text = "from policies import Vllm\n\nclass Mine(Vllm):\n    def plan(self, view):\n        "
    Path("mine.py").write_text(text + "raise KeyError('lost')\n")
    study = STUDY | {"axes": {"policy": ["vllm", "mine.py:Mine"]}, "seeds": 2}
    assert swept(study, "out", "--jobs", "1") == 1
    Path("mine.py").write_text(text + "return super().plan(view)\n")
    assert swept(study, "out", "--resume", "--dry-run") == 0
    assert "4 runs, 2 of them done" in capsys.readouterr().out
    assert swept(study, "out", "--resume", "--jobs", "1") == 0
    assert swept(study, "anew", "--jobs", "1") == 0
    assert files("out") == files("anew")


def test_a_run_whose_process_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    """It is listed like any other that fails, and the others come to their end."""
    Path("mine.py").write_text("import os\n\nfrom policies import Vllm\n\nclass Kills(Vllm):\n    def plan(self, view):\n"
                               "        os.kill(os.getpid(), 9)\n")
    study = STUDY | {"axes": {"policy": ["vllm", "mine.py:Kills", "sglang"]}, "seeds": 2}
    assert swept(study, "out", "--jobs", "2") == 1
    failed = rows("out/failures.csv")
    assert [row["why"] for row in failed] == ["its process was killed, for want of memory perhaps"] * 2
    assert all("mine.py:Kills" in row["command"] and row["command"] in capsys.readouterr().err for row in failed[:1])
    assert len(rows("out/runs.csv")) == 4


def test_a_dry_run_writes_nothing(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert swept(STUDY, "out", "--dry-run") == 0
    assert "6 combinations, 18 runs, 0 of them done." in capsys.readouterr().out
    assert [path.name for path in inside.iterdir()] == ["s.yaml"]
    assert swept(STUDY, "out") == 0
    before = files("out")
    capsys.readouterr()
    assert swept(STUDY | {"seeds": 4}, "out", "--dry-run") == 0
    assert "6 combinations, 24 runs, 18 of them done." in capsys.readouterr().out
    assert files("out") == before


# ---- the same bytes

@pytest.fixture
def undisturbed() -> dict[str, bytes]:
    assert swept(STUDY, "whole", "--jobs", "1") == 0
    return files("whole")


def test_jobs_do_not_show(undisturbed: dict[str, bytes]) -> None:
    assert swept(STUDY, "two", "--jobs", "2") == 0
    assert files("two") == undisturbed


def test_finished_runs_are_not_repeated(undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    import sim.study.kept
    asked: list[str] = []
    real = sim.study.kept.carried_out

    def carried_out(task: Any) -> Any:
        asked.append(task.key)
        return real(task)
    monkeypatch.setattr(sim.study.kept, "carried_out", carried_out)
    assert swept(STUDY, "whole", "--resume", "--jobs", "1") == 0
    assert asked == []
    assert files("whole") == undisturbed
    assert swept(STUDY | {"seeds": 4}, "whole", "--resume", "--jobs", "1") == 0
    assert len(asked) == 6
    assert swept(STUDY | {"seeds": 4}, "new", "--jobs", "1") == 0
    assert files("new") == files("whole")


def test_killed_and_resumed_five_times(undisturbed: dict[str, bytes]) -> None:
    """At random moments: while it imports, plans, simulates, or writes its tables."""
    file, draw = written(STUDY), random.Random()
    words = [sys.executable, "-c", COMMAND, "sweep", file, "-o", "killed", "--resume", "--jobs"]
    held, killed = set(), 0
    for n in range(5):
        process = subprocess.Popen([*words, str(1 + n % 2)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        store = Path("killed/runs.jsonl")
        lines = draw.randint(1, 3) + (store.read_bytes().count(b"\n") if store.exists() else 0)
        while process.poll() is None and not (store.exists() and store.read_bytes().count(b"\n") >= lines):
            time.sleep(0.001)
        time.sleep(draw.random() * 0.02)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), err
        done = {json.loads(line)["key"] for line in store.read_bytes().split(b"\n")[1:-1]}
        assert done >= held, "nothing is lost"
        held = done
    assert killed >= 2
    ended = subprocess.run([*words, "2"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert files("killed") == undisturbed
