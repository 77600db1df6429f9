"""`tokenflow-calibrate serve` up to the start of vLLM: its flags, vLLM's, what is believed, what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calibrate import machine_facts, serve, serve_beliefs
from calibrate.byte_tokenizer import write_tokenizer
from calibrate.cli import main
from calibrate.engine.steering import STOCK_ARGS, Steering, pool_blocks
from calibrate.machine_facts import Gpu
from calibrate.profile_model import prepare
from calibrate.serve import Start, Wanted, prepared

H200 = Gpu("NVIDIA H200", "580", 143_771 << 20)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(machine_facts, "gpus", lambda: [H200])
    monkeypatch.setattr(machine_facts, "available_bytes", lambda: 8 << 30)
    return tmp_path


def started(**wanted: Any) -> Start:
    return prepared(Wanted(**{"model": "llama3-8b", "policy": "tokenflow"} | wanted))


def steering(start: Start) -> Steering:
    return Steering(**json.loads(start.words[start.words.index("--additional-config") + 1])["tokenflow"])


def test_the_command_line_of_vllm(inside: Path) -> None:
    start = started(flags=["--port", "8001", "--max-num-seqs=64"], emulate_link=2.0, host_blocks=500)
    words = start.words
    assert words[:3] == ["-m", "vllm.entrypoints.openai.api_server", "--model"]
    assert words[words.index("--scheduler-cls") + 1] == "calibrate.engine.scheduler.PlanScheduler"
    connector = json.loads(words[words.index("--kv-transfer-config") + 1])
    assert (connector["kv_connector"], connector["kv_connector_extra_config"]["host_blocks"]) == ("HostTierConnector", 500)
    assert {"--no-async-scheduling", "--no-enable-prefix-caching"} < set(words)
    assert words[-3:] == ["--port", "8001", "--max-num-seqs=64"], "vLLM's own come last, and unchanged"
    assert steering(start) == Steering("tokenflow", "h200", "llama3-8b", {}, 500, 2.0)
    assert "host pool of 500 KV blocks, emulated link of 2 GB/s" in start.says


def test_stock_is_left_alone() -> None:
    words = started(policy="stock").words
    assert not {"--scheduler-cls", "--additional-config", "--kv-transfer-config"} & set(words)
    assert set(serve.as_flags(STOCK_ARGS)) < set(words)
    assert "--enable-prefix-caching" in started(policy="stock", flags=["--enable-prefix-caching"]).words


def test_a_policys_arguments() -> None:
    said = steering(started(policy="tokenflow[interval_s=0.5]", policy_args=["offload=false"]))
    assert (said.policy, said.parameters) == ("tokenflow[interval_s=0.5]", {"offload": "false"})
    assert (said.planner().interval_s, said.planner().offload) == (0.5, False)


def test_the_host_pool() -> None:
    assert steering(started()).host_gib == serve.HOST_GIB, "where the profile knows the link"
    assert steering(started(host_gib=1.5)).host_gib == 1.5
    assert not steering(started(host_blocks=0)).host_tier
    layers = [type("Group", (), {"kv_cache_spec": type("Spec", (), {"page_size_bytes": 1 << 20}), "layer_names": ["a", "b"]})]
    kv = type("KV", (), {"kv_cache_groups": layers})
    assert pool_blocks({"host_blocks": 0, "host_gib": 1.0}, kv) == 512
    assert pool_blocks({"host_blocks": 7, "host_gib": 0.0}, kv) == 7
    assert pool_blocks({"host_blocks": 0}, kv) == 0


def test_a_model_by_name_has_a_tokenizer(inside: Path) -> None:
    start = started(model="tiny", policy="stock")
    directory = Path(start.words[3])
    assert directory == inside / "cache" / "tokenflow-lab" / "models" / "tiny"
    names = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    assert sorted(names.values()) == list(range(512)), "every token that the model puts out has a name"
    assert len([name for name in names if len(name) == 1]) == 256
    assert {"--load-format", "dummy"} < set(start.words)
    assert start.words[start.words.index("--served-model-name") + 1] == "tiny"
    assert start.environment["HF_HUB_OFFLINE"] == "1"
    assert str(directory) in start.says


def test_the_tokenizer_has_room_for_every_byte(inside: Path) -> None:
    write_tokenizer(inside, 10)
    vocab = json.loads((inside / "tokenizer.json").read_text())["model"]["vocab"]
    assert len(vocab) == 3 + 256


def test_a_directory_with_weights_is_served_as_it_is(inside: Path) -> None:
    directory = prepare("tiny", inside).directory
    (directory / "model.safetensors").write_bytes(b"")
    start = started(model=str(directory))
    assert start.words[3] == str(directory)
    assert not {"--load-format", "--served-model-name", "--max-model-len"} & set(start.words)
    assert "HF_HUB_OFFLINE" not in start.environment
    assert steering(start).model == str(directory / "config.json"), "step times are scaled to its shapes"


def test_a_name_that_vllm_looks_up(inside: Path) -> None:
    assert started(model="org/name", profile_model="llama3-8b").words[3] == "org/name"
    with pytest.raises(ValueError, match="its shapes are not known here"):
        started(model="org/name")
    cached = inside / "hf" / "hub" / "models--org--name" / "snapshots" / "abc"
    cached.mkdir(parents=True)
    (cached / "config.json").write_text((prepare("tiny", inside).directory / "config.json").read_text())
    assert steering(started(model="org/name")).model == str(cached / "config.json")


def test_the_profile(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert steering(started()).profile == "h200", "of the GPU that is here"
    built_in = (Path(serve.__file__).parents[1] / "sim" / "profiles" / "a100.json").read_text()
    (inside / "mine.json").write_text(built_in)
    assert steering(started(profile="mine.json")).profile == str(inside / "mine.json"), "wherever vLLM's processes are"
    monkeypatch.setattr(serve_beliefs.machine_facts, "gpus", lambda: [Gpu("NVIDIA L4", "580", 1)])
    with pytest.raises(ValueError, match=r"NVIDIA L4: there is no built-in profile.*profile, then fit"):
        started()


@pytest.mark.parametrize(("words", "said"), [
    ("--policy nope", "policy: 'nope': unknown"),
    ("--policy tokenflow --policy-arg hurry=1", "--policy-arg: hurry: tokenflow has no such argument"),
    ("--policy lost.py:Mine", "policy: lost.py: there is no such file"),
    ("--profile nope", "hardware: 'nope': unknown"),
    ("--profile lost.json", "hardware profile: lost.json: No such file"),
    ("--profile-model nope", "model: 'nope': unknown"),
    ("--host-blocks -1", "--host-blocks: -1: must be a whole number from 0"),
    ("--host-blocks 1.5", "--host-blocks: '1.5': is not a whole number"),
    ("--host-gib -1", "--host-gib: -1.0: must be a number of GiB from 0"),
    ("--host-gib inf", "--host-gib: inf: must be"),
    ("--host-gib 9", "--host-gib: 9: this machine has 8.0 GiB available"),
    ("--host-gib 1 --host-blocks 1", "--host-gib: 1.0: says the size of the host pool, as --host-blocks does"),
    ("--emulate-link 0", "--emulate-link: 0.0: must be a number of GB/s from 0.001"),
    ("--emulate-link nan", "--emulate-link: nan: must be"),
    ("--policy stock --emulate-link 1", "--emulate-link: 1.0: --policy stock is vLLM's own scheduler"),
    ("--policy stock --policy-arg a=1", "--policy-arg: ['a=1']: --policy stock is"),
    ("--scheduler-cls x.Y", "--scheduler-cls: vLLM's flags: a policy's plans rest on it"),
    ("--enable-prefix-caching", "--enable-prefix-caching: vLLM's flags: a policy's"),
    ("--no_async_scheduling", "--no_async_scheduling: vLLM's flags: a policy's"),
    ("--speculative-config.model x", "--speculative-config.model: vLLM's flags: a policy's"),
    ("-tp 2", "-tp: vLLM's flags: policies schedule one engine on one GPU"),
    ("--data-parallel-size=4", "--data-parallel-size: vLLM's flags: policies schedule one"),
    ("--enable-prefix", "--enable-prefix: vLLM's flags: may be short for --enable-prefix-caching: write it in full"),
    ("--no-async-sched", "--no-async-sched: vLLM's flags: may be short for --async-scheduling: write"),
    ("--scheduler-c x.Y", "--scheduler-c: vLLM's flags: may be short for --scheduler-cls: write"),
    ("--tensor-parallel-si 2", "--tensor-parallel-si: vLLM's flags: may be short for --tensor-parallel-size: write"),
    ("--speculative_conf={}", "--speculative_conf: vLLM's flags: may be short for --speculative-config: write"),
    ("--config mine.yaml", "--config: vLLM's flags: what such a file says is not known here: give its flags one by one"),
    ("--config=mine.yaml", "--config: vLLM's flags: what such a file says"),
])
def test_bad_input(words: str, said: str, capsys: pytest.CaptureFixture[str], inside: Path) -> None:
    assert main(["serve", "llama3-8b", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tokenflow-calibrate: {said}"), error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("words", "said"), [
    ("--max-model-len 99 llama3-8b", "MODEL: --max-model-len: must come before vLLM's flags"),
    ("./nothing", "--model: './nothing': unknown"),
    ("", "MODEL"),
])
def test_no_model(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *words.split()]) == 2
    assert capsys.readouterr().err.startswith(f"tokenflow-calibrate: {said}")


def test_flags_that_only_look_alike(inside: Path) -> None:
    alike = ["--config-format", "auto", "--model-impl", "auto", "--comp", "{}", "--seed", "-1", "-dc", "{}"]
    assert started(flags=alike).words[-len(alike):] == alike
    assert started(policy="stock", flags=["--config", "mine.yaml"]).words[-1] == "mine.yaml"


def test_one_worker_may_be_said(inside: Path) -> None:
    assert started(flags=["-tp", "1", "--pipeline-parallel-size=1"]).words[-1] == "--pipeline-parallel-size=1"


def test_the_process_becomes_the_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    became: list[Any] = []
    monkeypatch.setattr(serve.os, "execve", lambda *given: became.append(given))
    monkeypatch.setattr(serve, "_check_engine", lambda wanted: None)
    assert main(["serve", "llama3-8b", "--policy", "vllm", "--port", "1"]) == 0
    ((program, words, environment),) = became
    assert (words[0], words[-2:]) == (program, ["--port", "1"])
    assert environment["PYTHONPATH"].split(":")[0] == str(Path(serve.__file__).parents[1])
    assert "policy vllm" in capsys.readouterr().err


def test_another_vllm_than_the_scheduler_is_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert main(["serve", "llama3-8b"]) == 2
    assert "is not installed; tokenflow-calibrate doctor says" in capsys.readouterr().err
    monkeypatch.setattr(serve, "find_spec", lambda name: name)
    monkeypatch.setattr(serve.metadata, "distributions", lambda name: [type("Found", (), {"version": "0.26.0"})])
    assert main(["serve", "llama3-8b"]) == 2
    assert "vllm: 0.26.0: policies schedule vLLM 0.32.0; --policy stock serves with any" in capsys.readouterr().err
