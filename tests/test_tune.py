"""`tokenflow tune`: the front of a search, and a winner that is decided on runs held out."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sim.cli import main
from sim.intervals import Estimate
from sim.policy_choice import choose
from sim.study.compared import compared, conclusion
from sim.study.objectives import Limit, front, parse_objectives
from sim.study.search_space import Parameter, Range
from sim.study.tune import Found, HeldOut, Trial, Tuning

optuna = pytest.importorskip("optuna", reason="optuna is not installed: pip install 'tokenflow-lab[opt]'")

WORDS = ["tune", "--num-prompts", "14", "--input-len", "normal:64:9", "--output-len", "constant:80", "--kv-tokens", "800",
         "--link", "2", "--trials", "20", "--seeds", "2", "--held-out-seeds", "2", "--jobs", "1"]

#: how many seats a policy has; with more of them everyone is served sooner, so the best number is known
SEATS = """
from dataclasses import dataclass
from policies import Vllm

@dataclass
class Seats(Vllm):
    seats: int = 2

    def plan(self, view):
        return super().plan(view._replace(max_seqs=min(view.max_seqs, self.seats)))
"""


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def same_files(one: Path, other: Path) -> None:
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
    for file in one.iterdir():
        if file.name != "host.json":
            assert file.read_bytes() == (other / file.name).read_bytes(), file.name


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune") / "out"
    assert main([*WORDS, "-o", str(folder)]) == 0
    return folder


def test_what_it_leaves(searched: Path) -> None:
    facts = json.loads((searched / "tune.json").read_text())
    assert facts["objectives"] == {"p99_ttft_ms": "lower", "effective_throughput": "higher", "mean_rebuffer_s": "lower"}
    trials = rows(searched / "trials.csv")
    assert [row["trial"] for row in trials] == [str(n) for n in range(20)]
    assert (trials[0]["interval_s"], trials[0]["utility"]) == ("1.0", "marginal"), "the defaults come first"
    assert len({row["gamma"] for row in trials}) > 10
    keys = ("p99_ttft_ms", "effective_throughput", "mean_rebuffer_s")
    values = {int(row["trial"]): tuple(float(row[key]) for key in keys) for row in trials}
    assert facts["front"] == front(values, parse_objectives(",".join(keys)))
    assert {int(row["trial"]) for row in rows(searched / "front.csv")} == {0, *facts["front"]}
    assert (searched / "front.png").read_bytes().startswith(b"\x89PNG")
    held = rows(searched / "held_out.csv")
    assert {row["seed"] for row in held} == {"2", "3"}, "not those of the search"
    assert facts["winner"] in {int(row["trial"]) for row in held}


def test_a_trial_is_what_tokenflow_run_gives(searched: Path, tmp_path: Path) -> None:
    ledger = [json.loads(line) for line in (searched / "runs.jsonl").read_text().splitlines()]
    entry = ledger[25]
    assert main([*shlex.split(entry["command"])[1:], "-o", str(tmp_path / "run")]) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert entry["values"]
    assert entry["values"] == {key: run[key] for key in entry["values"]}


def test_the_winners_file_gives_its_held_out_numbers(searched: Path, tmp_path: Path) -> None:
    facts = json.loads((searched / "tune.json").read_text())
    tuned = choose(f"{searched / 'winner.py'}:Tuned").policy
    assert {name: getattr(tuned, name) for name in facts["winner_arguments"]} == {
        name: {"true": True, "false": False}.get(value, value) for name, value in facts["winner_arguments"].items()}
    winner = f"{searched / 'winner.py'}:Tuned"
    assert main(["run", *WORDS[1:11], "--seed", "3", "--policy", winner, "-o", str(tmp_path / "run")]) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    held, = (row for row in rows(searched / "held_out.csv") if (row["trial"], row["seed"]) == (str(facts["winner"]), "3"))
    assert float(held["p99_ttft_ms"]) == run["p99_ttft_ms"]


def test_the_same_command_leaves_the_same_files_however_many_jobs(searched: Path, tmp_path: Path) -> None:
    assert main([*WORDS[:-1], "2", "-o", str(tmp_path / "two")]) == 0
    same_files(searched, tmp_path / "two")


def test_a_search_that_was_killed_goes_on(searched: Path, tmp_path: Path) -> None:
    folder, root = tmp_path / "out", Path(__file__).parents[1]
    folder.mkdir()
    lines = (searched / "runs.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "runs.jsonl").write_bytes(b"".join(lines[:7]) + lines[7][:30])
    command = [sys.executable, "-c", "from sim.cli import main; raise SystemExit(main())", *WORDS, "--resume", "-o", str(folder)]
    process = subprocess.Popen(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, stdout=subprocess.DEVNULL)
    while process.poll() is None and (folder / "runs.jsonl").read_bytes().count(b"\n") < 14:
        time.sleep(0.02)
    process.kill()
    process.wait()
    kept = (folder / "runs.jsonl").read_bytes().splitlines(keepends=True)
    assert kept[:7] == lines[:7]
    assert main([*WORDS, "--resume", "-o", str(folder)]) == 0
    same_files(searched, folder)


def test_it_finds_what_is_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "seats.py").write_text(SEATS)
    words = [*WORDS[:7], "--policy", f"{tmp_path / 'seats.py'}:Seats", "--param", "seats=1:4", "--trials", "12", "--seeds", "2",
             "--held-out-seeds", "3", "--jobs", "1", "--objective", "p99_ttft_ms,output_throughput", "-o", str(tmp_path / "out")]
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "p99_ttft_ms (ms): lower is better" in said
    assert "better than the defaults in p99_ttft_ms, output_throughput" in said
    assert choose(f"{tmp_path / 'out' / 'winner.py'}:Tuned").policy.seats == 4  # type: ignore[attr-defined]


def test_trials_that_fail_are_listed_and_the_others_go_on(tmp_path: Path) -> None:
    fails = "        if self.seats > 3:\n            raise KeyError('lost')\n        return"
    (tmp_path / "seats.py").write_text(SEATS.replace("        return", fails))
    words = [*WORDS[:7], "--policy", f"{tmp_path / 'seats.py'}:Seats", "--param", "seats=1:5", "--trials", "10", "--seeds", "1",
             "--held-out-seeds", "2", "--jobs", "1", "--objective", "p99_ttft_ms,output_throughput", "-o", str(tmp_path / "out")]
    assert main(words) == 0
    trials = rows(tmp_path / "out" / "trials.csv")
    assert {row["seats"] for row in trials if "KeyError: 'lost'" in row["failed"]} <= {"4", "5"}
    assert any(row["failed"] for row in trials)
    assert all((row["failed"] != "") == (int(row["seats"]) > 3) for row in trials)
    assert choose(f"{tmp_path / 'out' / 'winner.py'}:Tuned").policy.seats == 3  # type: ignore[attr-defined]


# ---- who wins, on numbers made up

OBJECTIVES = tuple(parse_objectives("p99_ttft_ms,effective_throughput"))


def decided(held_out: dict[int, list[tuple[float, float]]], *limits: Limit) -> tuple[Tuning, Found]:
    """The decision on trials whose held-out runs give these values, a pair a seed."""
    from sim.study import tune
    tuning = Tuning("tokenflow", (), {}, OBJECTIVES, limits, (Parameter("gamma", Range(1, 9)),), len(held_out), 0, (0,), (1, 2, 3))
    told = {number: (HeldOut({each.key: tuple(pair[i] for pair in pairs) for i, each in enumerate(OBJECTIVES)}),)
            for number, pairs in held_out.items()}
    trials = tuple(Trial(number, {"gamma": 1.0 + number}, {each.key: Estimate(1.0, None, None, 1) for each in OBJECTIVES})
                   for number in held_out)
    out, ranks = tune.ranked(tuning, told)
    return tuning, Found(trials, tuple(held_out), told, out, ranks, tune.best(ranks) if ranks else None)


BASE = [(100.0, 50.0), (110.0, 52.0), (105.0, 49.0)]


def shifted(ttft: float, effective: float) -> list[tuple[float, float]]:
    return [(a + ttft, b + effective) for a, b in BASE]


def test_the_best_mean_rank_wins_unless_it_is_worse_somewhere() -> None:
    tuning, found = decided({0: BASE, 1: shifted(-20, 5), 2: shifted(-10, 3), 3: shifted(-80, -9)})
    assert found.winner == 1
    assert set(found.out) == {3}
    assert "clearly worse" in found.out[3]
    assert conclusion(tuning, found) == ("Trial 1 wins: better than the defaults in p99_ttft_ms, effective_throughput (paired 95 % "
                                         "intervals over 3 held-out seeds).")
    assert [row.change.mean for row in compared(tuning, found)] == [pytest.approx(-20), pytest.approx(5)]


def test_a_limit_says_how_far_an_objective_may_go() -> None:
    _, found = decided({0: BASE, 3: shifted(-80, -1)}, Limit("effective_throughput", False, 0.9, True))
    assert found.winner == 0, "of two it has as good a mean rank, and comes first"
    tuning, found = decided({0: BASE, 2: shifted(-10, -9), 3: shifted(-80, -1)}, Limit("effective_throughput", False, 0.9, True))
    assert set(found.out) == {2}
    tuning, found = decided({0: BASE, 3: shifted(-80, 20)}, Limit("p99_ttft_ms", True, 50.0, False))
    assert found.winner == 3
    assert "The defaults do not keep the limits" in conclusion(tuning, found)
    tuning, found = decided({0: BASE, 3: shifted(-10, 20)}, Limit("p99_ttft_ms", True, 50.0, False))
    assert found.winner is None
    assert conclusion(tuning, found).startswith("Nobody wins")


def test_it_is_said_plainly_when_the_winner_is_not_better() -> None:
    tuning, found = decided({0: BASE, 1: [(99.0, 50.5), (111.0, 52.0), (104.0, 49.0)]})
    assert found.winner == 1
    assert "it is not better than the defaults in any objective" in conclusion(tuning, found)
    tuning, found = decided({0: BASE, 1: shifted(5, -1)})
    assert found.winner == 0
    assert conclusion(tuning, found).startswith("The defaults win")


def test_without_optuna(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sim.study import sampler
    monkeypatch.setattr(sampler, "find_spec", lambda name: None)
    assert main([*WORDS, "-o", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "optuna" in err
    assert "pip install 'tokenflow-lab[opt]'" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_finished_results_are_not_overwritten(searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, why in (([], "holds finished results"), (["--resume"], "holds finished results")):
        assert main([*WORDS, *more, "-o", str(searched)]) == 2
        assert why in capsys.readouterr().err
    folder = tmp_path / "interrupted"
    folder.mkdir()
    shutil.copy(searched / "runs.jsonl", folder)
    assert main([*WORDS, "-o", str(folder)]) == 2
    assert "--resume completes it" in capsys.readouterr().err
    assert main([*WORDS, "--seed", "77", "--resume", "-o", str(folder)]) == 2
    assert "is what another command has left: tokenflow tune" in capsys.readouterr().err
    assert (folder / "runs.jsonl").read_bytes() == (searched / "runs.jsonl").read_bytes()

