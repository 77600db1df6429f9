"""A policy that was written to a file runs wherever a policy does: in the simulator, and in vLLM's scheduler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calibrate import machine_facts
from calibrate.engine.steering import Steering
from calibrate.serve import Wanted, prepared
from policies import POLICIES, TokenFlow
from sim.cli import main
from sim.policy_choice import arguments_of, choose
from sim.study.policy_file import CLASS, policy_file

ARGUMENTS = ["interval_s=0.287", "utility=slack", "rate_bound=false", "swap_passes=3", "critical_s=none"]


def written(folder: Path, policy: str, arguments: list[str]) -> str:
    file = folder / "winner.py"
    file.write_text(policy_file(policy, arguments, file.name, "A \"\"\"policy\"\"\".", ["Found by: C:\\somebody", "A rule. " * 30]))
    return f"{file}:{CLASS}"


def test_it_is_the_policy_with_these_arguments(tmp_path: Path) -> None:
    tuned = choose(written(tmp_path, "tokenflow", ARGUMENTS)).policy
    assert isinstance(tuned, TokenFlow)
    expected = choose("tokenflow", ARGUMENTS).policy
    assert {name: getattr(tuned, name) for name in TokenFlow.__dataclass_fields__ if name[0] != "_"} == {
        name: getattr(expected, name) for name in TokenFlow.__dataclass_fields__ if name[0] != "_"}
    assert tuned.engine_step_tokens == expected.engine_step_tokens  # type: ignore[attr-defined]
    assert all(len(line) <= 110 for line in (tmp_path / "winner.py").read_text().splitlines())


def test_its_arguments_may_be_overridden(tmp_path: Path) -> None:
    spec = written(tmp_path, "tokenflow", ARGUMENTS)
    tuned = choose(f"{spec}[interval_s=2,offload=false]").policy
    assert (tuned.interval_s, tuned.offload, tuned.utility) == (2.0, False, "slack")  # type: ignore[attr-defined]
    assert {argument.name for argument in arguments_of(type(tuned))} == {argument.name for argument in arguments_of(TokenFlow)}


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_can_be_written(policy: str, tmp_path: Path) -> None:
    made, same = choose(written(tmp_path, policy, [])).policy, choose(policy).policy
    assert isinstance(made, type(same))
    assert {name: value for name, value in vars(made).items() if name[0] != "_"} == {
        name: value for name, value in vars(same).items() if name[0] != "_"}


def test_a_users_policy(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from policies import Vllm\n\nclass Mine(Vllm):\n    def __init__(self, size: int):\n"
                                      "        super().__init__()\n        self.size = size\n")
    made = choose(written(tmp_path, f"{tmp_path / 'mine.py'}:Mine", ["size=7"])).policy
    assert made.size == 7  # type: ignore[attr-defined]
    assert type(made).__mro__[1].__name__ == "Mine"


def test_tokenflow_run_takes_it_and_does_what_the_arguments_do(tmp_path: Path) -> None:
    words = ["run", "--num-prompts", "12", "--output-len", "constant:60", "--kv-tokens", "2000"]
    assert main([*words, "--policy", written(tmp_path, "tokenflow", ARGUMENTS), "-o", str(tmp_path / "file")]) == 0
    flags = [word for argument in ARGUMENTS for word in ("--policy-arg", argument)]
    assert main([*words, "--policy", "tokenflow", *flags, "-o", str(tmp_path / "flags")]) == 0
    one, other = ((tmp_path / name / "run.json").read_text() for name in ("file", "flags"))
    assert json.loads(one) == json.loads(other) | {"policy": CLASS}


def test_tokenflow_calibrate_serve_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(machine_facts, "available_bytes", lambda: 8 << 30)
    written(tmp_path, "tokenflow", ARGUMENTS)
    start = prepared(Wanted(model="llama3-8b", policy=f"winner.py:{CLASS}", profile="h200"))
    config = json.loads(start.words[start.words.index("--additional-config") + 1])
    monkeypatch.chdir("/")          # the scheduler's process may live elsewhere
    policy = Steering(**config["tokenflow"]).planner()
    assert isinstance(policy, TokenFlow)
    assert (policy.interval_s, policy.utility) == (0.287, "slack")
