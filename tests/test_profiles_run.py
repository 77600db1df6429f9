"""Every profile x model that fits runs every policy on a small burst under memory pressure; what does not fit says so."""

from __future__ import annotations

import re

import pytest

from policies import POLICIES
from sim.hardware import build_machine, fits, list_hardware, list_models, load_hardware, manifest
from sim.simulate import simulate
from traces import Trace, generate
from traces.errors import BadInput

TOO_LARGE = {("a6000", "qwen2.5-32b"), ("rtx4090", "qwen2.5-32b")}
PAIRS = [(hardware, model) for hardware in list_hardware() for model in list_models()]


@pytest.fixture(scope="module")
def burst() -> Trace:
    return generate(12, input_len="normal:150:30", output_len="normal:60:12", seed=1)


@pytest.mark.parametrize("policy", list(POLICIES))
@pytest.mark.parametrize(("hardware", "model"), [pair for pair in PAIRS if pair not in TOO_LARGE])
def test_what_fits_runs_every_policy(hardware: str, model: str, policy: str, burst: Trace) -> None:
    said = simulate(policy, burst, hardware, model, kv_tokens=1_000, host_kv_tokens=4_000).summary
    assert said["completed"] == 12
    assert said["duration"] > 0
    measured = model in load_hardware(hardware).models
    assert said["latency_status"].startswith("estimated: scaled from ") != measured


@pytest.mark.parametrize("options", [{}, {"kv_tokens": 1_000}, {"mem_fraction": 1.0}], ids=["", "kv_tokens", "mem_fraction"])
@pytest.mark.parametrize(("hardware", "model"), sorted(TOO_LARGE))
def test_what_does_not_fit_says_so_in_one_line(hardware: str, model: str, options: dict[str, float], burst: Trace) -> None:
    with pytest.raises(BadInput) as caught:
        simulate("vllm", burst, hardware, model, **options)
    assert re.fullmatch(rf"GPU memory: {model} on {hardware}: weights \(65\.5 GB\), reserve \(\d\.\d\) and two KV blocks "
                        r"need 66\.4 of \d\d\.\d GB: it does not fit on this GPU at all", str(caught.value))


def test_fits_is_what_build_machine_finds() -> None:
    assert {(hardware, model) for hardware, model in PAIRS if not fits(load_hardware(hardware), model)} == TOO_LARGE


def test_bandwidth_and_compute_order_the_gpus() -> None:
    """One reader on an 8B model: weights over memory bandwidth; a long prompt: FLOPs. No profile may break that order."""
    latencies = {name: build_machine(name, "llama3-8b").latency for name in list_hardware()}
    decode = sorted(latencies, key=lambda name: latencies[name].step_s(1, 1024, 0, 1))
    prefill = sorted(latencies, key=lambda name: latencies[name].step_s(2048, 0, 2048**2 / 2, 1))
    assert decode == ["h200", "h100", "a100", "rtx4090", "a6000"]
    assert prefill == ["h200", "h100", "a100", "rtx4090", "a6000"]


@pytest.mark.parametrize(("hardware", "model"), PAIRS)
def test_every_manifest_says_whether_it_is_an_estimate(hardware: str, model: str) -> None:
    said = manifest(hardware, model)
    status = str(said["latency_status"])
    assert status.startswith(("fitted", "estimated"))
    assert ("fit_test_mape_pct" in said) == status.startswith("fitted")
    assert ("scaling_error" in said) == status.startswith("estimated: scaled from ")
