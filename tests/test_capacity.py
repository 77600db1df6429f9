"""`tokenflow capacity`: what a setup carries, where that is known by other means."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sim.cli import main
from sim.study.capacity import Answer, Question, answered, capacities
from sim.study.setup import simulated

#: seven seats: who does not get one waits for a whole answer, which takes seconds
SEATS: dict[str, Any] = {"input_len": "constant:64", "output_len": "constant:300", "max_num_seqs": 7, "goodput": ["ttft:1000"]}

ONE_BY_ONE: dict[str, Any] = {"arrival": "gamma", "burstiness": 1e9, "input_len": "constant:64", "output_len": "constant:20",
                              "max_num_seqs": 1, "goodput": ["ttft:100"]}


def question(flags: dict[str, Any], of: Any = "burst", **more: Any) -> Question:
    return Question(flags, **{"of": of, "target": 1.0, "duration_s": 60.0, "tolerance": 0.0, "most": 400} | more)


def carried(answer: Answer) -> float | None:
    assert answer.border is not None, answer.failed
    return answer.border.carried


@pytest.mark.parametrize(("target", "burst"), [(1.0, 7), (0.5, 14), (0.7, 10), (0.99, 7)])
def test_a_burst_gets_as_many_seats_as_there_are(target: float, burst: int) -> None:
    """7 of n are good: n = floor(7 / target)."""
    assert carried(answered((question(SEATS, target=target), "vllm", 0))) == burst


def test_a_server_of_one_carries_one_answer_after_the_other() -> None:
    """Arrivals on the beat: nobody waits longer and longer as long as an answer ends before the next request comes."""
    asked = question(ONE_BY_ONE, "rate", tolerance=0.01, most=50)
    one = simulated(asked.options("vllm", 0, 0.02)).summary
    answer_s, first_s = one["mean_e2el_ms"] / 1000, one["mean_ttft_ms"] / 1000
    rate = carried(answered((asked, "vllm", 0)))
    assert rate is not None
    # whoever comes last, duration / gap later, has waited that often for what an answer takes more than a gap
    late_s = (0.1 - first_s) / (asked.duration_s * rate)
    assert 1 / answer_s * 0.98 <= rate <= 1 / (answer_s - late_s) * 1.001


@pytest.mark.parametrize("policy", ["sglang", "vllm", "tokenflow"])
def test_every_burst_size_tried_one_by_one_says_the_same(policy: str) -> None:
    flags = {"input_len": "normal:100:30", "output_len": "normal:120:30", "kv_tokens": 1600, "link": "4",
             "goodput": ["ttft:1300,rebuffer:500"]}
    asked = question(flags, target=0.9, most=40)
    good = [simulated(asked.options(policy, 3, burst)).summary["goodput_share"] >= 0.9 for burst in range(1, 41)]
    found = answered((asked, policy, 3)).border
    assert found is not None
    assert found.carried is not None
    assert found.refused is not None
    assert good[int(found.carried) - 1]
    assert not good[int(found.refused) - 1]
    if all(good[: good.index(False)]) and not any(good[good.index(False):]):
        assert found.carried == good.index(False)
    assert 1 < found.carried < 40, "the machine is small enough to have a limit here"


def test_who_is_rejected_or_unfinished_does_not_count() -> None:
    rejected = SEATS | {"input_len": "normal:300:100", "max_model_len": 600, "max_num_seqs": 100}       # about half of them
    shares = [point.share for point in answered((question(rejected, target=0.9), "vllm", 0)).points if point.requests > 15]
    assert shares
    assert all(0.2 < share < 0.8 for share in shares)
    unfinished = SEATS | {"until": 0.5}
    assert carried(answered((question(unfinished), "vllm", 0))) is None
    nobody = answered((question(SEATS | {"max_model_len": 100}), "vllm", 0))
    assert "no request fits" in nobody.failed


def test_a_policys_arguments_and_the_same_requests_for_all() -> None:
    asked = question({"workload": "burst-80"}, "rate")
    one, other = asked.options("vllm", 4, 0.5), asked.options("tokenflow[interval_s=0.5]", 4, 0.5)
    assert (one.requests().output_tokens == other.requests().output_tokens).all()
    assert (one.num_prompts, one.request_rate) == (30, 0.5)
    assert len(one.requests()) == 30
    assert len(question({"workload": "table1-4090-c"}, "burst").options("vllm", 4, 9).requests()) == 9


def test_estimates_over_seeds_and_ratios_seed_by_seed() -> None:
    asked = question(SEATS)
    found = [answered((asked, policy, seed)) for policy in ("vllm", "sglang") for seed in (0, 1)]
    first, second = capacities(asked, found, ["vllm", "sglang"])
    assert first.mean is not None
    assert (first.mean.mean, first.mean.low, first.ratio) == (7, 7, None)
    assert second.ratio is not None
    assert second.ratio.mean == carried(found[2]) / 7      # type: ignore[operator]


# ---- on the command line

WORDS = ["capacity", "--of", "burst", "--input-len", "constant:64", "--output-len", "constant:300", "--max-num-seqs", "7",
         "--seeds", "2", "--goodput", "ttft:1000", "--tolerance", "0.001"]


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    assert main([*WORDS, "--policies", "vllm,sglang[mixed_chunk=true]", "-o", str(folder)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"vllm +7 ", said)
    assert "99 % of requests" in said
    names = {file.name for file in folder.iterdir()}
    assert names == {"capacity.csv", "capacity.json", "capacity.png", "host.json", "points.csv"}
    table = rows(folder / "capacity.csv")
    assert [(row["policy"], row["seed"], row["capacity"]) for row in table[:2]] == [("vllm", "0", "7"), ("vllm", "1", "7")]
    assert len(table) == 4
    points = rows(folder / "points.csv")
    assert {row["carried"] for row in points} == {"True", "False"}
    assert all((float(row["good_share"]) >= 0.99) == (row["carried"] == "True") for row in points)
    facts = json.loads((folder / "capacity.json").read_text())
    assert facts["policies"]["vllm"]["mean"] == 7
    assert facts["goodput"] == "ttft:1000"
    assert (folder / "capacity.png").read_bytes().startswith(b"\x89PNG")


def test_two_jobs_write_the_same_bytes(tmp_path: Path) -> None:
    for jobs in ("1", "2"):
        assert main([*WORDS, "--policies", "vllm,tokenflow", "--jobs", jobs, "-o", str(tmp_path / jobs)]) == 0
    for name in ("capacity.csv", "capacity.json", "capacity.png", "points.csv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_too_little_and_too_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--policies", "vllm", "--until", "0.5", "-o", str(tmp_path / "none")]) == 0
    assert re.search(r"vllm +below 1 ", capsys.readouterr().out)
    assert main([*WORDS, "--policies", "vllm,sglang", "--max-load", "6", "-o", str(tmp_path / "all")]) == 0
    assert re.search(r"vllm +at least 6 ", capsys.readouterr().out)
    facts = json.loads((tmp_path / "all" / "capacity.json").read_text())
    assert facts["policies"]["vllm"]["bound"] == "at least 6"
    assert facts["policies"]["sglang"]["ratio"] is None


def test_what_fails_is_named_and_the_others_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text("from policies import Vllm\n\nclass Mine(Vllm):\n    def plan(self, view):\n"
                                      "        if len(view.id) > 3:\n            raise KeyError('lost')\n"
                                      "        return super().plan(view)\n")
    mine = f"{tmp_path / 'mine.py'}:Mine"
    assert main([*WORDS, "--policies", f"vllm,{mine}", "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert re.search(r"Mine +failed", said)
    assert "KeyError: 'lost'" in said
    assert re.search(r"tokenflow run .*--num-prompts \d+", said)
    assert re.search(r"vllm +7 ", said)
    assert main([*WORDS, "--policies", mine, "-o", str(tmp_path / "nothing")]) == 2
    assert "KeyError: 'lost'" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()
