"""Named workloads: what each asks for and on which machine, and how flags change them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim import simulate
from sim.cli import main
from sim.hardware import build_machine
from sim.workloads import WORKLOADS, workload
from traces import BadInput, load_trace

#: TokenFlow's Table 1: arrivals, and mean lengths by either reading of SL and LL
PAPER = {
    "table1-4090-a": (60, None, (512, 2048), (512, 1024)), "table1-4090-b": (80, None, (1024, 2048), (1024, 2048)),
    "table1-4090-c": (600, 2.0, (512, 2048), (512, 1024)), "table1-4090-d": (1200, 4.0, (512, 2048), (512, 1024)),
    "table1-h200-a": (400, None, (512, 4096), (512, 2048)), "table1-h200-b": (200, None, (1024, 4096), (1024, 4096)),
    "table1-h200-c": (1500, 5.0, (512, 4096), (512, 2048)), "table1-h200-d": (3000, 10.0, (512, 4096), (512, 2048)),
}


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def json_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


# ---- the table


@pytest.mark.parametrize("row", PAPER)
def test_rows_of_table_1_in_both_readings(row: str) -> None:
    requests, rate, *readings = PAPER[row]
    for suffix, (prompt, output) in zip(("", "-short"), readings):
        if suffix and readings[0] == readings[1]:
            assert row + suffix not in WORKLOADS, "both readings agree: there is one workload"
            continue
        named = workload(row + suffix)
        assert (named.num_prompts, named.request_rate) == (requests, rate)
        trace = named.trace(num_prompts=4000)
        for drawn, mean in ((trace.input_tokens, prompt), (trace.output_tokens, output)):
            assert drawn.mean() == pytest.approx(mean, rel=0.02)
            assert drawn.std() == pytest.approx(0.2 * mean, rel=0.05)
        gpu, memory = ("rtx4090", 0.9) if "4090" in row else ("h200", 0.3)
        assert (named.hardware, named.mem_fraction) == (gpu, memory)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_has_a_machine_that_holds_its_longest_request(name: str) -> None:
    named = WORKLOADS[name]
    assert named.name == name
    machine, trace = build_machine(**named.machine), named.trace()
    assert len(trace) == named.num_prompts
    assert (trace.input_tokens + trace.output_tokens).max() <= machine.kv_blocks * machine.block_size
    if named.request_rate is not None:
        assert trace.arrival_s[-1] == pytest.approx(named.num_prompts / named.request_rate)
        if name.startswith("table1"):
            assert trace.arrival_s[-1] == pytest.approx(300)
    else:
        assert not trace.arrival_s.any()


def test_twenty_minutes_like_burstgpt() -> None:
    trace = workload("burstgpt-20min").trace(seed=4)
    assert trace.arrival_s[-1] == pytest.approx(1200, abs=0.1)
    gaps = np.diff(trace.arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(2, rel=0.1)


def test_the_burst_of_the_readme() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    named = workload("burst-80")
    if "--workload burst-80" not in readme:
        for said in (f"--num-prompts {named.num_prompts}", f"--input-len {named.input_len}", f"--output-len {named.output_len}",
                     f"--hardware {named.hardware}", f"--model {named.model}"):
            assert said in readme


# ---- in Python


def test_a_workload_is_drawn_and_run(capsys: pytest.CaptureFixture[str]) -> None:
    named = workload("burst-80")
    one, other = named.trace(seed=3), named.trace(seed=3)
    assert one.source == other.source
    assert (one.output_tokens == other.output_tokens).all()
    assert (one.output_tokens != named.trace(seed=4).output_tokens).any()
    few = named.trace(seed=3, num_prompts=3, output_len=40)
    assert few.output_tokens.tolist() == [40, 40, 40]
    result = simulate("vllm", few, **named.machine, workload=named.name)
    assert (result.summary["workload"], result.summary["hardware"]) == ("burst-80", "rtx4090")


def test_a_rate_makes_a_burst_poisson_and_a_burst_has_none() -> None:
    spread = workload("table1-4090-a").trace(request_rate=6.0)
    assert spread.arrival_s[-1] == pytest.approx(10)
    assert "--arrival poisson --request-rate 6" in spread.source
    assert not workload("burstgpt-20min").trace(arrival="burst", num_prompts=10).arrival_s.any()


@pytest.mark.parametrize(("name", "near"), [("table1-4090-e", "table1-4090-"), ("burst80", "burst-80"), ("", ""),
                                            ("table1-h200-b-short", "table1-h200-b"), ("BURST-80", "burst-80")])
def test_an_unknown_name_gets_the_nearest(name: str, near: str) -> None:
    with pytest.raises(BadInput, match=f"^workload: '{name}': unknown; did you mean '{near}.*tokenflow list workloads"):
        workload(name)


# ---- on the command line


def test_run_names_the_workload_and_uses_its_machine(capsys: pytest.CaptureFixture[str]) -> None:
    said = json_of(capsys, "run", "--policy", "vllm", "--workload", "table1-h200-a", "--num-prompts", "5", "--seed", "2")
    named = workload("table1-h200-a")
    assert said["trace"] == named.trace(seed=2, num_prompts=5).source
    assert said["workload"] == "table1-h200-a --num-prompts 5"
    assert (said["hardware"], said["model"], said["completed"]) == (named.hardware, named.model, 5)
    machine = build_machine(**named.machine)
    assert said["kv_tokens"] == machine.kv_blocks * machine.block_size
    assert json_of(capsys, "run", "--policy", "vllm", "--num-prompts", "2")["workload"] is None


def test_the_whole_workload(capsys: pytest.CaptureFixture[str]) -> None:
    said = json_of(capsys, "run", "--policy", "vllm", "--workload", "burst-80")
    assert (said["workload"], said["completed"]) == ("burst-80", 80)


@pytest.mark.parametrize(("words", "key", "value"), [
    (["--hardware", "a100"], "hardware", "a100"),
    (["--mem-fraction", "0.8"], "kv_tokens", 31_216),
    (["--kv-tokens", "16016"], "kv_tokens", 16_000),
    (["--output-len", "7"], "total_output_tokens", 35),
    (["--request-rate", "5"], "request_rate", 5.0),
    (["--consume-rate", "7"], "consume_rate", 7.0),
    (["--consume-rate", "30/10@2"], "consume_rate", 30.0),
    (["--host-kv-tokens", "0"], "host_kv_tokens", 0),
    (["--block-size", "32"], "block_size", 32),
    (["--max-num-seqs", "3"], "max_seqs", 3),
    (["--max-num-batched-tokens", "77"], "max_step_tokens", 77),
    (["--link", "none"], "host_kv_tokens", 0),
    (["--host-time-ms", "1.5"], "latency_host_s", 0.0015),
    (["--believed-step", "0.5"], "believed_step", 0.5),
    (["--believed-link", "2.0"], "believed_link", 2.0),
    (["--max-concurrency", "2"], "max_concurrency", 2),
    (["--max-model-len", "5000"], "max_model_len", 5000),
])
def test_flags_go_before_the_workload(words: list[str], key: str, value: object, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--num-prompts", "5"] + ([] if "--output-len" in words else ["--output-len", "20"])
    said = json_of(capsys, "run", "--policy", "vllm", "--workload", "burst-80", *short, *words)
    assert said[key] == value
    assert said["workload"].startswith("burst-80 --num-prompts 5")
    assert said["workload"].endswith(" ".join(words)) or words[0] in ("--request-rate", "--output-len")
    assert " ".join(words) in said["workload"]


def test_compare_and_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--policies", "vllm,sglang", "--workload", "burst-80", "--output-len", "9"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("burst-80 --output-len 9, 80 requests: ")
    assert "KV pool 50,864 tokens" in out


def test_generate_writes_a_workload(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "generate", "--workload", "table1-4090-c", "--num-prompts", "30", "--seed", "1", "-o", "c.csv"]) == 0
    drawn, read = workload("table1-4090-c").trace(seed=1, num_prompts=30), load_trace("c.csv")
    assert read.output_tokens.tolist() == drawn.output_tokens.tolist()
    np.testing.assert_allclose(read.arrival_s, drawn.arrival_s)
