"""The rule that names a winner, and where the command line says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim.cli import main
from sim.winner import RULE, baseline_of, verdict


def summary(p99_ttft_ms: float | None, rebuffer_s: float | None = 0.0, tps: float = 1000.0,
            effective: float = 500.0) -> dict[str, Any]:
    return {"p99_ttft_ms": p99_ttft_ms, "mean_rebuffer_s": rebuffer_s, "output_throughput": tps, "effective_throughput": effective}


VLLM = summary(9000.0, 1.0)


def winner(**others: dict[str, Any]) -> str | None:
    found = verdict({"vllm": VLLM, **others})
    assert found is not None
    return found.winner


def test_lowest_p99_ttft_wins() -> None:
    assert winner(one=summary(3000.0), two=summary(2000.0)) == "two"


@pytest.mark.parametrize(("rebuffer_s", "wins"), [(1.5, True), (1.51, False), (None, True)])
def test_rebuffering_within_half_a_second_of_vllms(rebuffer_s: float | None, wins: bool) -> None:
    assert winner(one=summary(3000.0, rebuffer_s)) == ("one" if wins else None)


@pytest.mark.parametrize(("tps", "wins"), [(970.0, True), (969.9, False)])
def test_throughput_within_three_percent_of_vllms(tps: float, wins: bool) -> None:
    assert winner(one=summary(3000.0, tps=tps)) == ("one" if wins else None)


def test_who_is_out_is_said_with_the_limit_it_breaks() -> None:
    found = verdict({"vllm": VLLM, "stalls": summary(1.0, 2.0), "slow": summary(1.0, tps=900.0), "best": summary(8000.0)})
    assert found is not None
    assert found.winner == "best"
    assert found.out == {"stalls": "rebuffering 2.00 s per request, at most 1.50", "slow": "900.0 output tokens/s, at least 970.0"}
    assert RULE in str(found)
    assert "slow is out: 900.0 output tokens/s" in str(found)


def test_ties_go_to_the_higher_effective_throughput() -> None:
    assert winner(one=summary(3000.0, effective=500.0), two=summary(3000.0, effective=501.0)) == "two"


def test_nobody_ahead_of_vllm_is_no_winner() -> None:
    found = verdict({"vllm": VLLM, "one": summary(9001.0), "never": summary(None)})
    assert found is not None
    assert found.winner is None
    assert "nobody within the limits is ahead of vllm" in str(found)
    assert found.out == {"never": "it completed no request"}


def test_medians_of_runs_that_completed_nothing_lack_the_figure() -> None:
    unserved = {"output_throughput": 0.0}
    found = verdict({"vllm": VLLM, "never": unserved})
    assert found is not None
    assert found.out == {"never": "it completed no request"}
    found = verdict({"vllm": unserved, "one": summary(3000.0)})
    assert found is not None
    assert found.winner == "one"


def test_vllms_own_scheduler_comes_before_its_policy() -> None:
    assert baseline_of(["tokenflow", "vllm", "stock"]) == "stock"
    assert verdict({"sglang": VLLM, "tokenflow": VLLM}) is None
    assert verdict({"vllm": VLLM, "stock": summary(1.0)}) is None


@pytest.mark.unaudited
@pytest.mark.parametrize("policies", ["vllm,tokenflow", "sglang,tokenflow"])
def test_compare_names_the_winner_where_vllm_is_among_the_policies(policies: str, tmp_path: Path,
                                                                   capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "--num-prompts", "30", "--output-len", "constant:200", "--kv-tokens", "6000", "--policies", policies]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    kept = json.loads((tmp_path / "out/compare.json").read_text())
    if policies.startswith("vllm"):
        assert kept["winner"] in ("tokenflow", None)
        assert RULE in said
        assert (f"Winner: {kept['winner']}." if kept["winner"] else "No winner:") in said
        assert kept["winner_rule"] == RULE
    else:
        assert "The rule:" not in said
        assert "winner" not in kept
