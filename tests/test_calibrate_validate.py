"""`tokenflow-calibrate validate` up to the engine: the burst it makes, the machine it predicts with, what it refuses."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from calibrate import stages as stages_module
from calibrate.burst import Burst, conditions, design
from calibrate.cli import main
from calibrate.cli_engine import EngineFlags
from calibrate.engine.steering import Steering
from calibrate.replay import link_status
from calibrate.stages import LOG, Failed, Stages
from sim.latency import LatencyModel
from sim.machine import Machine
from sim.simulate import simulate
from traces import BadInput

CPU = LatencyModel(weights_s=7.5e-3, token_s=4.2e-4, kv_token_s=1.15e-6, pair_s=8e-8, seq_s=5e-5, knee=1.2, host_s=1e-3)
GPU = LatencyModel(weights_s=4.98e-3, token_s=1.85e-5, kv_token_s=2.84e-8, pair_s=9.3e-10, seq_s=3.05e-6, knee=1.77, host_s=8e-4)


def machine_with(latency: LatencyModel, gb_per_s: float = 0.2) -> Machine:
    return Machine(latency, 100, 200, 32, kv_token_bytes=8192.0, max_seqs=64, max_step_tokens=512, write_whole_blocks=True,
                   h2d_bytes_per_s=gb_per_s * 1e9, d2h_bytes_per_s=gb_per_s * 1e9, copy_overhead_s=0.0)


def designed(latency: LatencyModel, longest: int = 2048, seed: int = 0) -> Burst:
    from dataclasses import replace
    return design(lambda blocks: replace(machine_with(latency), kv_blocks=blocks - 1, host_kv_blocks=2 * (blocks - 1)), longest,
                  seed=seed)


@pytest.mark.unaudited
@pytest.mark.parametrize("slower", [0.7, 1.0, 2.5])
def test_the_burst_meets_every_condition_on_a_cpu(slower: float) -> None:
    latency = LatencyModel(*(slower * value for value in (7.5e-3, 4.2e-4, 1.15e-6, 8e-8, 5e-5)), knee=1.2, host_s=1e-3)
    burst = designed(latency)
    results = [simulate(policy, burst.trace, burst.machine) for policy in ("vllm", "tokenflow")]
    found = conditions(burst.trace, burst.machine, *results)
    assert len(found) == 5
    assert all(each.ok for each in found), [str(each) for each in found if not each.ok]
    assert results[0].summary["rejected"] == 0
    # as said, found in another way
    times = results[0].records.clock_s
    assert np.median(np.diff(times)) > 0.01
    asked = float((burst.trace.input_tokens + burst.trace.output_tokens).sum())
    assert burst.machine.kv_blocks * 32 <= 0.5 * asked
    assert burst.num_gpu_blocks == burst.machine.kv_blocks + 1


@pytest.mark.unaudited
def test_a_machine_that_is_too_fast_is_told_so() -> None:
    burst = designed(GPU)
    results = [simulate(policy, burst.trace, burst.machine) for policy in ("vllm", "tokenflow")]
    found = conditions(burst.trace, burst.machine, *results)
    assert not found[0].ok
    assert str(found[0]).endswith("(at least 10): NOT OK")


@pytest.mark.unaudited
def test_the_same_seed_gives_the_same_burst() -> None:
    one, same, other = (designed(CPU, seed=seed).trace for seed in (1, 1, 2))
    assert one.output_tokens.tolist() == same.output_tokens.tolist()
    assert one.output_tokens.tolist() != other.output_tokens.tolist()


def test_there_must_be_room_for_it() -> None:
    with pytest.raises(BadInput, match="--max-model-len: 300: leaves no room for prompts of 128 tokens"):
        designed(CPU, longest=300)


def test_an_engine_to_be_is_the_engine_that_is(tmp_path: Path) -> None:
    """The prediction's machine and the policy's beliefs come from one place."""
    steering = Steering("vllm", "rtx4090", "llama3-8b", {}, 77, 0.5)
    machine = steering.on(101, 32, 64, 512, 4096.0, 8)
    assert (machine.kv_blocks, machine.host_kv_blocks, machine.block_size, machine.max_seqs, machine.max_step_tokens) == (
        100, 77, 32, 64, 512)
    assert (machine.h2d_bytes_per_s, machine.d2h_bytes_per_s, machine.copy_overhead_s) == (0.5e9, 0.5e9, 0.0)
    assert machine.write_whole_blocks


def test_what_is_said_of_a_link() -> None:
    """A real one's busy seconds are blocks times what the profile believes, and no clock's."""
    assert link_status(None) == link_status(Steering("vllm", "h200", "llama3-8b")) == "none: no host tier"
    assert link_status(Steering("vllm", "/a/mine.json", "tiny", {}, 7)) == "real link; busy times estimated from mine.json's rates"
    assert link_status(Steering("vllm", "h200", "llama3-8b", {}, 7)) == "real link; busy times estimated from h200's rates"
    assert link_status(Steering("vllm", "h200", "llama3-8b", {}, 7, 2.0)).startswith("emulated link: 2 GB/s each way")


def test_engine_flags_as_words_again() -> None:
    flags = EngineFlags(dtype="float32", max_num_seqs=8, enforce_eager=True, block_size=16)
    words = flags.engine_words({"max_num_seqs": 64, "max_model_len": 2048}, ("block_size",))
    assert words == ["--max-num-seqs", "8", "--max-model-len", "2048", "--dtype", "float32", "--enforce-eager"]


def test_a_stage_that_fails_is_said_with_its_last_line(tmp_path: Path) -> None:
    stages = Stages(tmp_path / "out")
    with pytest.raises(BadInput, match=r"remake: exit code 2: --data: nosuch: holds no folder latency"):
        stages.run("remake", "remaking", ["remake", "--data", "nosuch", "-o", str(tmp_path / "new")])
    stages.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("ending", "said"), [
    ("sys.exit(1)", "exit code 1: the engine is gone"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "exit code -9: the engine is gone"),
])
def test_an_engine_that_fails_is_no_bad_input(ending: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages_module, "_COMMAND",
                        f"import sys; print('tokenflow-calibrate: the engine is gone', file=sys.stderr, flush=True); {ending}")
    stages = Stages(tmp_path / "out")
    with pytest.raises(Failed, match=f"^replay of stock: {said}$"):
        stages.run("replay of stock", "replaying", [])
    stages.close()
    assert "the engine is gone" in (tmp_path / "out" / LOG).read_text(), "what it said is kept"


def test_validate_ends_with_1_when_an_engine_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stages_module, "_COMMAND", "import sys; print('tokenflow-calibrate: the engine is gone'); sys.exit(1)")
    assert main(["validate", "--model", "tiny", "-o", "out"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "tokenflow-calibrate: profile: exit code 1: the engine is gone; out keeps what is done"
    assert (tmp_path / "out" / LOG).is_file()


def test_what_is_done_is_kept(tmp_path: Path) -> None:
    stages = Stages(tmp_path / "out")
    stages.run("help", "helping", ["--help"])
    stages.close()
    said = (tmp_path / "out" / LOG).read_text()
    assert "helping" in said
    assert "Usage" in said


ENDED = """
import sys
from pathlib import Path
from sim.cli_errors import run
from calibrate import stages
stages._COMMAND = ("import signal, sys, time; from pathlib import Path; signal.signal(signal.SIGTERM, lambda *a: ("
                   "Path('kept').write_text(''), sys.exit(143))); Path('up').write_text(''); time.sleep(60)")
class App:
    def __call__(self, words, **more):
        return lambda: stages.Stages(Path("out")).run("sleep", "sleeping", [])
sys.exit(run(App, ["go"], "validate"))
"""


def test_a_signal_reaches_the_stage_which_keeps_what_it_has(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[1])
    running = subprocess.Popen([sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{ENDED}"], cwd=tmp_path,
                               stderr=subprocess.PIPE, text=True)
    end_s = time.monotonic() + 60
    while not (tmp_path / "up").exists() and time.monotonic() < end_s:
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 143, err
    assert (tmp_path / "kept").exists()


BAD = [
    ("-o full", r"output directory: full: is not empty; results are never overwritten"),
    ("-o out --policies nosuch", r"policy: 'nosuch': unknown"),
    ("-o out --policies vllm,vllm", r"--policies: vllm: is listed twice"),
    ("-o out --policies stock,stock", r"--policies: stock: is listed twice"),
    ("-o out --budget soon", r"--budget: 'soon': must be a time above 0"),
    ("-o out --repeats 0", r"--repeats: 0: must be a whole number from 1"),
    ("-o out --emulate-link 0", r"link: --emulate-link: must be oracle, none or a number of GB/s"),
    ("-o out --host-blocks -1", r"--host-blocks: -1: must be zero or more"),
    ("-o out --host-blocks 5 --host-kv-tokens 64", r"--host-kv-tokens: 64: cannot be given together with --host-blocks"),
    ("-o out --trace nosuch.csv", r"trace: nosuch.csv"),
    ("-o out --profile nosuch", r"hardware: 'nosuch': unknown"),
    ("-o out --profile rtx4090", r"--block-size: \(not given\): a profile does not say it"),
    ("-o out --model nosuch", r"--model: 'nosuch': unknown"),
    ("-o out --max-num-seqs 0", r"--max-num-seqs: 0: must be a whole number from 1"),
    ("-o out --consume-rate 0", r"--consume-rate: 0.*: must be a number from 1e-09"),
    ("", r"--output-dir/-o: tokenflow-calibrate validate: "),
]


@pytest.mark.parametrize(("words", "line"), BAD, ids=[words for words, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(words: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("")
    assert main(["validate", *words.split()]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.match(f"tokenflow-calibrate: {line}", err), err
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


REPLAY = [
    ("--policy stock", r"workload: command line: give --trace FILE, --workload NAME, or --num-prompts N"),
    ("--policy stock --num-prompts 3", r"--model: \(not given\): give a model for vLLM in this process, or --url of a server"),
    ("--policy stock --num-prompts 3 --model nosuch", r"--model: 'nosuch': unknown"),
    ("--policy stock --num-prompts 3 --until 0", r"--until: 0: must be above 0"),
    ("--policy stock --num-prompts 3 --max-concurrency 0", r"--max-concurrency: 0: must be above 0"),
    ("--policy stock --num-prompts 3 --policy-arg a=b", r"--policy-arg: .*: vLLM's own scheduler, left alone, has none"),
    ("--policy vllm --num-prompts 3 --model tiny", r"--profile: \(not given\): a policy must believe"),
    ("--policy vllm --num-prompts 3 --model tiny --profile rtx4090 --emulate-link 1", r"--emulate-link: 1: is of copies to"),
    ("--policy vllm --num-prompts 3 --model tiny --host-kv-tokens 64", r"--host-kv-tokens: 64: give --block-size as well"),
    ("--policy nosuch --num-prompts 3 --model tiny", r"policy: 'nosuch': unknown"),
    ("--num-prompts 3 --goodput x:1 --model tiny", r"--goodput: 'x': unknown"),
    *((f"--num-prompts 3 --url {url}", rf"--url: {re.escape(repr(url))}: must be written http://HOST:PORT")
      for url in ("http://127.0.0.1:abc", "http://127.0.0.1:99999", "http://[::1", "http://:80", "http://", "127.0.0.1:80", "ftp://x",
                  "http://a\x01b")),
    ("--num-prompts 3 --host-blocks x", r"--host-blocks: 'x': is not a whole number"),
]


@pytest.mark.parametrize(("words", "line"), REPLAY, ids=[words for words, _ in REPLAY])
def test_replays_bad_input_is_one_line(words: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["replay", *words.split(), "-o", "out"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.match(f"tokenflow-calibrate: {line}", err), err
    assert list(tmp_path.iterdir()) == []
