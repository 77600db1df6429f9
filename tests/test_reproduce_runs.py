"""The runs of a reproduction: each once, kept one by one, found again after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sim.reproduce.kept
from sim.code_version import code_version
from sim.reproduce.runs import LEDGER, Ledger, Run, carry_out, merged
from traces import BadInput

pytestmark = pytest.mark.unaudited


def tiny(policy: str = "sglang", seed: int = 1, **more: object) -> Run:
    return Run.of("burst-80", policy, seed, {"num_prompts": 4, "output_len": 30}, **more)  # type: ignore[arg-type]


def counting(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    seen: list[Run] = []
    real = sim.reproduce.kept.simulated

    def simulated(run: Run) -> object:
        seen.append(run)
        return real(run)
    monkeypatch.setattr(sim.reproduce.kept, "simulated", simulated)
    return seen


def test_a_run_is_known_by_its_content() -> None:
    assert tiny().key == tiny().key == tiny(keep=("streams",)).key
    keys = {tiny().key, tiny("tokenflow").key, tiny(seed=2).key, tiny(machine={"link": 3}).key, tiny(consume_tps=5.0).key}
    assert len(keys) == 5
    assert Run.of("burst-80", "vllm", 1, {"a": 1, "b": 2}).key == Run.of("burst-80", "vllm", 1, {"b": 2, "a": 1}).key


def test_runs_of_several_items_are_one() -> None:
    one, = merged([tiny(), tiny(keep=("streams",)), tiny(keep=("waits",))])
    assert one.keep == ("streams", "waits")


def test_each_run_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counting(monkeypatch)
    with Ledger(tmp_path, "x", resume=False) as ledger:
        found = carry_out([tiny(), tiny("vllm"), tiny(keep=("waits",))], ledger, jobs=1)
    assert sorted(run.policy for run in seen) == ["sglang", "vllm"]
    assert len(found[tiny()]["waits"]["ttft_s"]) == 4
    assert found[tiny("vllm")]["completed"] == 4


def test_two_jobs_find_the_same(tmp_path: Path) -> None:
    runs = [tiny(policy, seed) for policy in ("sglang", "tokenflow") for seed in (1, 2)]
    for name, jobs in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        with Ledger(tmp_path / name, "x", resume=False) as ledger:
            carry_out(runs, ledger, jobs)
    one, two = ({entry["key"]: entry["values"] for line in (tmp_path / name / LEDGER).read_text().splitlines()[1:]
                 if (entry := json.loads(line))} for name in ("one", "two"))
    assert one == two
    assert len(one) == 4


def test_what_was_done_before_a_kill_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [tiny(seed=seed) for seed in (1, 2, 3)]
    with Ledger(tmp_path, "x", resume=False) as ledger:
        carry_out(runs[:2], ledger, jobs=1)
    file = tmp_path / LEDGER
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"key": "cut short by the ki')
    seen = counting(monkeypatch)
    with Ledger(tmp_path, "x", resume=True) as ledger:
        found = carry_out(runs, ledger, jobs=1)
    assert [run.seed for run in seen] == [3]
    assert found[runs[0]]["completed"] == 4
    lines = file.read_bytes().splitlines()
    assert file.read_bytes().startswith(whole)
    assert len(lines) == 4
    assert all(json.loads(line) for line in lines)


def test_a_series_that_was_not_kept_is_a_new_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(tmp_path, "x", resume=False) as ledger:
        carry_out([tiny()], ledger, jobs=1)
    seen = counting(monkeypatch)
    with Ledger(tmp_path, "x", resume=True) as ledger:
        assert "streams" in carry_out([tiny(keep=("streams",))], ledger, jobs=1)[tiny()]
    assert len(seen) == 1


def test_runs_of_other_code_are_not_taken_up(tmp_path: Path) -> None:
    with Ledger(tmp_path, "x", resume=False):
        pass
    with pytest.raises(BadInput, match="other code"):
        Ledger(tmp_path, "y", resume=True)


def test_a_ledger_that_is_none(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text("hello\n")
    with pytest.raises(BadInput, match="not what this command writes"):
        Ledger(tmp_path, "x", resume=True)


def test_the_code_has_a_version() -> None:
    assert code_version() == code_version()
    assert len(code_version()) == 16


def test_a_policy_that_wedges_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from policies import Plan, View, Vllm
    monkeypatch.setattr(Vllm, "plan", lambda self, view: Plan(), raising=True)
    assert View
    with Ledger(tmp_path, "x", resume=False) as ledger:
        found = carry_out([tiny("vllm")], ledger, jobs=1)
    assert "never end" in (found.failure(tiny("vllm")) or "") or "nothing runs" in (found.failure(tiny("vllm")) or "")
