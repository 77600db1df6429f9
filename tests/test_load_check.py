"""Demand against capacity: computed from profile and workload, held to simulated saturation and to published magnitudes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sim import Result, simulate
from sim.cli import main
from sim.load_check import check_load
from sim.workloads import WORKLOADS, Workload, workload


def rate_while_full(result: Result) -> float:
    """Output tokens per second in the middle of a run, where memory is full and others wait."""
    start_s, end_s = 0.3 * result.end_s, 0.8 * result.end_s
    times_s = np.concatenate([result.token_times_s(id) for id in range(len(result.trace))])
    return float(((times_s > start_s) & (times_s <= end_s)).sum() / (end_s - start_s))


LEAST = {"sglang": 0.85, "vllm": 0.75}      #: of the capacity


def shares(named: Workload, requests: int) -> dict[str, float]:
    """What each policy reaches of the capacity."""
    capacity, trace = check_load(named).capacity_tps, named.trace(num_prompts=requests)
    return {policy: rate_while_full(simulate(policy, trace, **named.machine)) / capacity for policy in LEAST}


@pytest.mark.unaudited
@pytest.mark.parametrize(("name", "requests"), [("table1-4090-c", 400), ("table1-4090-d-short", 800), ("table1-h200-d", 1000),
                                                ("poisson-1000", 2000)])
def test_a_saturated_engine_reaches_the_capacity(name: str, requests: int) -> None:
    """Never above it; below it by what preemption and caution cost: see `check_load`."""
    named = replace(workload(name), request_rate=50.0)
    for policy, share in shares(named, requests).items():
        assert LEAST[policy] <= share <= 1.01, (policy, share)


@pytest.mark.unaudited
def test_short_answers_reach_least_of_it() -> None:
    """What SGLang keeps free for growth weighs most where answers are short and memory is."""
    short = replace(workload("table1-4090-c"), model="llama3-8b", output_len="constant:512", request_rate=50.0)
    reached = shares(short, 1500)["sglang"]
    assert 0.85 <= reached < 0.9


def test_the_list_states_what_is_tested(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "workloads"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"sglang reaches about {100 * LEAST['sglang']:g} to 100 %" in said
    assert f"vllm {100 * LEAST['vllm']:g} to 100 %" in said


def test_capacity_follows_the_machine() -> None:
    named = workload("table1-4090-c")
    plain = check_load(named)
    assert check_load(replace(named, mem_fraction=0.8)).capacity_tps < 0.8 * plain.capacity_tps
    assert check_load(replace(named, hardware="h200")).capacity_tps > 5 * plain.capacity_tps
    assert check_load(replace(named, input_len="constant:4096")).capacity_tps < 0.5 * plain.capacity_tps
    assert check_load(replace(named, request_rate=4.0)).capacity_tps == pytest.approx(plain.capacity_tps, rel=1e-6)
    few = replace(named, arrival="burst", request_rate=None, num_prompts=3)
    assert check_load(few).batch == 3, "a burst fills no more seats than it has requests"


def test_demand() -> None:
    found = check_load(workload("table1-4090-c"))
    assert found.demand_tps == pytest.approx(2 * 2048, rel=0.003)
    assert found.load == pytest.approx(found.demand_tps / found.capacity_tps)
    assert found.readers_load == pytest.approx(found.load), "who reads at a time: 2/s, each for 2048 / 20 s, at 20 tokens/s"
    burst = check_load(workload("burst-80"))
    assert burst.demand_tps is burst.load is None
    assert burst.kv_tokens == pytest.approx(80 * (1024 + 2048), rel=0.003)
    assert burst.pools == pytest.approx(burst.kv_tokens / 50_864)
    assert burst.readers_load == pytest.approx(80 * 20 / burst.capacity_tps)


@pytest.mark.parametrize(("name", "demand", "capacity"), [
    # a sketch of ours: 75 % of HBM bandwidth and 3 ms a step, prefill not counted
    ("table1-4090-c", 4_100, 900), ("table1-4090-d", 8_200, 900), ("table1-h200-c", 20_500, 5_600),
    ("table1-h200-d", 41_000, 5_600)])
def test_magnitudes(name: str, demand: float, capacity: float) -> None:
    found = check_load(replace(workload(name), model="llama3-8b"))
    assert found.demand_tps == pytest.approx(demand, rel=0.03)
    assert 0.7 * capacity < found.capacity_tps < 1.5 * capacity
    assert found.load is not None
    assert found.load > 2, "Table 1's Poisson rows overload the GPU"


def test_the_list_shows_every_row_and_what_it_rests_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list", "workloads"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 80
    lines = {words[0]: words for line in out.splitlines() if (words := line.split()) and words[0] in WORKLOADS}
    assert set(lines) == set(WORKLOADS)
    found = check_load(workload("table1-4090-c"))
    row = lines["table1-4090-c"]
    assert row[1:5] == ["600", "at", "2/s", "512/2048"]
    demand, capacity = (float(cell.replace(",", "")) for cell in row[5:7])
    assert (demand, capacity) == (pytest.approx(found.demand_tps, rel=0.005), pytest.approx(found.capacity_tps, rel=0.005))
    assert row[7:] == [f"x{found.load:.2f}", f"x{found.readers_load:.2f}"]
    burst = check_load(workload("burst-80"))
    assert f"x{burst.pools:.1f}" in lines["burst-80"]
    assert f"x{burst.readers_load:.2f}" in lines["burst-80"]
    assert "fitted" in out
