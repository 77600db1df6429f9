"""Scaled step times against tables that were fitted, times that others measured, and what must hold of any scaling."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sim.geometry import ModelGeometry
from sim.hardware import Hardware, build_machine, load_hardware, load_model, manifest, step_times
from sim.latency import LatencyModel
from sim.scaling import LAYER_S, MAPE_PCT, nearest, scaled
from sim.step_times import Coefficients
from traces.errors import BadInput

#: six-coefficient fits to NVIDIA aiconfigurator 0.8.0 op tables (l40s, vLLM 0.14.0); no profile has this GPU
L40S = {
    "llama3-8b": Coefficients(weights_s=0.0227074, token_s=5.91977e-5, kv_token_s=1.94716e-7, pair_s=5.14545e-9, seq_s=9.77915e-6,
                              knee=2.02744),
    "qwen2.5-7b": Coefficients(weights_s=0.0215735, token_s=5.53129e-5, kv_token_s=8.45214e-8, pair_s=2.94604e-9, seq_s=5.95426e-6,
                               knee=1.99767),
}


def grid_s(latency: LatencyModel) -> np.ndarray:
    """Prefills of 128 to 8,192 tokens, and decode steps of 1 to 256 requests on contexts of 256 to 2,048."""
    prefills = [latency.step_s(tokens, 0, tokens**2 / 2, 1) for tokens in 2 ** np.arange(7, 14)]
    decodes = [latency.step_s(n, n * context, 0, n) for n in 2 ** np.arange(9) for context in (256, 512, 1024, 2048)]
    return np.array(prefills + decodes)


def mape_pct(guess: Coefficients, truth: Coefficients) -> float:
    return float(np.mean(np.abs(grid_s(guess.with_host(0.0)) / grid_s(truth.with_host(0.0)) - 1)) * 100)


def without(profile: Hardware, *models: str) -> Hardware:
    return profile.model_copy(update={"models": {name: times for name, times in profile.models.items() if name not in models}})


@pytest.mark.parametrize("model", sorted(MAPE_PCT))
def test_the_rule_is_as_good_as_it_says(model: str) -> None:
    h200 = load_hardware("h200")
    only_llama = without(h200, "qwen2-7b", "qwen2.5-7b", "qwen2.5-32b")
    error = mape_pct(step_times(only_llama, model)[1].latency, h200.models[model].latency)
    assert error == pytest.approx(MAPE_PCT[model], abs=0.1)


def test_the_rule_holds_on_a_gpu_that_it_was_not_made_on() -> None:
    llama, qwen = load_model("llama3-8b"), load_model("qwen2.5-7b")
    source = load_hardware("a100").models["llama3-8b"].model_copy(update={"latency": L40S["llama3-8b"]})
    assert mape_pct(scaled(source, llama, qwen, "estimated").latency, L40S["qwen2.5-7b"]) == pytest.approx(1.5, abs=0.2)


@pytest.mark.parametrize(("hardware", "context", "tpot_ms"), [
    # vLLM e2e0002, github.com/tenstorrent/tt-inference-server/issues/125
    ("rtx4090", 128, 17.1), ("rtx4090", 1024, 17.2), ("rtx4090", 3072, 17.3),
    # vLLM 0.23.0, median; the context is not given. ld-singh.github.io/ai-factory-ops-lab, inference-benchmark-report
    ("a6000", 512, 21.9),
])
def test_one_reader_waits_as_long_as_others_measured(hardware: str, context: int, tpot_ms: float) -> None:
    """Qwen2.5-7B in vLLM, one request at a time; scaled step times with the assumed host time."""
    latency = build_machine(hardware, "qwen2.5-7b").latency
    assert 1e3 * latency.step_s(1, context, 0, 1) == pytest.approx(tpot_ms, rel=0.03)


def test_a_model_scaled_to_its_own_shapes_is_itself() -> None:
    for hardware in ("rtx4090", "a6000", "h200"):
        for name, times in load_hardware(hardware).models.items():
            same = load_model(name)
            assert scaled(times, same, same, "estimated").latency == times.latency


def test_each_coefficient_follows_its_own_shape() -> None:
    """KV heads move KV and the cost per request, an untied head only what is read, the layers' own time only the layers."""
    llama = load_model("llama3-8b")
    times = load_hardware("rtx4090").models["llama3-8b"]

    def ratio(**changes: int | bool) -> dict[str, float]:
        other = scaled(times, llama, ModelGeometry(**llama.model_dump() | changes), "estimated").latency.model_dump()
        return {name: value / getattr(times.latency, name) for name, value in other.items()}

    none = dict.fromkeys(times.latency.model_dump(), 1.0)
    assert ratio(kv_heads=2) == pytest.approx(none | {"kv_token_s": 0.25, "seq_s": 0.25})
    assert ratio(head_dim=64) == pytest.approx(none | {"kv_token_s": 0.5, "pair_s": 0.5})
    assert ratio(trained_context=9, intermediate=5) == pytest.approx(none)
    assert ratio(layers=16)["weights_s"] == pytest.approx(1 - 16 * LAYER_S / times.latency.weights_s)
    tied = ratio(tied_embeddings=True)
    assert tied["token_s"] == pytest.approx(8_030_261_248 / (8_030_261_248 - 128_256 * 4096))


def test_the_nearest_model_is_the_source() -> None:
    assert "scaled from qwen2.5-7b on h200" in step_times(without(load_hardware("h200"), "llama3-8b"), "llama3-8b")[1].status
    llama, qwen, large = map(load_model, ("llama3-8b", "qwen2.5-7b", "qwen2.5-32b"))
    assert nearest({"llama": llama, "large": large}, qwen) == "llama"
    assert nearest({"llama": llama, "qwen": qwen}, large) == "llama"
    assert nearest({"b": qwen, "a": qwen}, llama) == "b"
    assert nearest({}, llama) is None


def test_every_output_calls_scaled_step_times_estimated() -> None:
    said = manifest("rtx4090", "qwen2.5-7b")
    assert said["latency_status"] == "estimated: scaled from llama3-8b on rtx4090 by weight bytes, KV bytes and FLOPs"
    assert said["scaling_error"] == ("mean 1.6 and 2.9 % where it is known: from llama3-8b on h200 to qwen2.5-7b and qwen2.5-32b; "
                                     "unchecked here")
    assert "LLMServingSim" in str(said["latency_source"])
    assert not [key for key in said if key.startswith("fit_")]
    assert "scaling_error" not in manifest("h200", "qwen2.5-7b")
    assert str(manifest("a6000", "qwen2.5-7b")["latency_status"]).endswith("FLOPs, itself an estimate")


def test_a_profile_without_step_times_has_nothing_to_scale_from() -> None:
    with pytest.raises(BadInput, match="bare has step times of no model"):
        build_machine(load_hardware("rtx4090").model_copy(update={"models": {}, "name": "bare"}), "llama3-8b")


def test_a_users_own_model_is_a_source_as_well(tmp_path: Path) -> None:
    content = json.loads(load_hardware("rtx4090").model_dump_json(exclude_none=True))
    geometry = load_model("qwen2.5-7b").model_dump() | {"name": "mine"}
    content["models"] = {"mine": content["models"]["llama3-8b"] | {"geometry": geometry}}
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(content))
    assert build_machine(path, "qwen2-7b").latency == build_machine(path, "mine").latency
    assert manifest(path, "qwen2-7b")["latency_status"].startswith("estimated: scaled from mine on rtx4090")
    with pytest.raises(BadInput, match="unknown; known are"):
        build_machine(path, "yours")


def test_tiny_models_on_fast_gpus_still_take_time() -> None:
    """The layers' own time is never more than half of what the source's step takes."""
    source = load_model("llama3-8b")
    times = load_hardware("h200").models["llama3-8b"]
    fast = times.model_copy(update={"latency": times.latency.model_copy(update={"weights_s": 1e-4})})
    tiny = ModelGeometry(**source.model_dump() | {"layers": 1, "parameters": source.vocab * source.hidden + 1})
    for one in (times, fast):
        assert 0 < scaled(one, source, tiny, "estimated").latency.weights_s < one.latency.weights_s
