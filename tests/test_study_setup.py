"""A simulation of a study is one that `tokenflow run` does: same flags, same result, and a key that knows what it depends on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from sim.cli import main
from sim.saving import as_json, run_facts
from sim.study.setup import command, key, setup, simulated
from traces import BadInput

SMALL: dict[str, Any] = {"num-prompts": 6, "input_len": "constant:64", "output_len": "constant:40", "kv_tokens": 4000, "seed": 3}

POLICY = """
from policies.vllm import Vllm


class Mine(Vllm):
    pass
"""


@pytest.mark.parametrize("more", [{}, {"policy": "tokenflow", "policy-arg": {"offload": False, "interval_s": 0.5}},
                                  {"goodput": ["ttft:1300", "tpot:50"], "consume_rate": 12, "link": 12.5, "request_rate": 2.0}])
def test_its_command_line_gives_the_same_run(more: dict[str, Any], tmp_path: Path) -> None:
    made = setup("study", SMALL | {"policy": "vllm"} | more)
    words = shlex.split(command(made))
    assert words[:2] == ["tokenflow", "run"]
    assert main([*words[1:], "-o", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "run.json").read_text() == as_json(run_facts(simulated(made)))


def test_names_are_those_of_the_flags() -> None:
    with pytest.raises(BadInput, match="did you mean 'kv_tokens'"):
        setup("study.yaml", SMALL | {"kv_token": 4000})
    with pytest.raises(BadInput, match="given twice"):
        setup("study.yaml", SMALL | {"num_prompts": 7})
    with pytest.raises(BadInput, match="one value"):
        setup("study.yaml", SMALL | {"hardware": ["h200", "a100"]})
    with pytest.raises(BadInput, match="--kv-tokens"):
        setup("study.yaml", SMALL | {"kv_tokens": "many"})
    with pytest.raises(BadInput, match="unknown"):
        setup("study.yaml", SMALL | {"output_dir": "here"})


def test_the_key_knows_contents(tmp_path: Path) -> None:
    def of(**flags: Any) -> str:
        made = setup("study", SMALL | flags)
        return key(made, made.requests())

    file = tmp_path / "mine.py"
    file.write_text(POLICY)
    first = of(policy=f"{file}:Mine")
    assert of(policy=f"{file}:Mine") == first
    assert len({first, of(), of(seed=4), of(policy="vllm"), of(policy_arg=["offload=false"])}) == 5

    heir = tmp_path / "heir.py"
    heir.write_text(f"from sim.policy_choice import choose\n\nMine = type(choose('{file}:Mine').policy)\n\n"
                    "class Heir(Mine):\n    pass\n")
    before = of(policy=f"{heir}:Heir")
    file.write_text(POLICY + "\n# and more\n")
    assert of(policy=f"{heir}:Heir") != before

    trace = tmp_path / "trace.csv"
    keys = set()
    for tokens in (5, 6):
        trace.write_text(f"arrival_s,input_tokens,output_tokens\n0,10,{tokens}\n")
        made = setup("study", {"trace": str(trace)})
        keys.add(key(made, made.requests()))
    assert len(keys) == 2
