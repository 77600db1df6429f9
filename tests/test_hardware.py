"""Built-in profiles agree with their sources, pools have the sizes servers report, and every fault is one line."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.hardware import Hardware, build_machine, list_hardware, list_models, load_hardware, load_model, manifest
from traces.errors import BadInput

MODEL = "llama3-8b"
TABLES = {
    ("rtx4090", MODEL): "lss_rtx4090_llama3.1-8b_vllm",
    ("a100", MODEL): "aic_a100_llama3.1-8b_vllm",
    ("h100", MODEL): "aic_h100_llama3.1-8b_vllm",
    ("h200", MODEL): "aic_h200_llama3.1-8b_vllm",
    ("h200", "qwen2-7b"): "aic_h200_qwen2.5-7b_vllm",       # the same shapes
    ("h200", "qwen2.5-7b"): "aic_h200_qwen2.5-7b_vllm",
    ("h200", "qwen2.5-32b"): "aic_h200_qwen2.5-32b_vllm",
}
NO_TIME = {"weights_s": 0, "token_s": 0, "kv_token_s": 0, "pair_s": 0, "seq_s": 0, "knee": 2}


@pytest.fixture(scope="module")
def latency_data() -> Path:
    root = os.environ.get("TOKENFLOW_DATA")
    if not root:
        pytest.skip("TOKENFLOW_DATA is not set: the latency tables the profiles were fitted to are not part of the repository")
    return Path(root) / "latency"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """A function: the RTX 4090 profile, one field changed (or removed: `...`), as a file."""
    def profile(field: str, value: object) -> Path:
        content = json.loads(load_hardware("rtx4090").model_dump_json(exclude_none=True))
        *parents, last = field.split("/")
        inner = content
        for key in parents:
            inner = inner[key]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(content))
        return path
    return profile


def fault(*args: Any, **options: Any) -> str:
    """The one line that building this machine fails with."""
    with pytest.raises(BadInput) as caught:
        build_machine(*args, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 400
    return line


def test_built_in_profiles_are_named_after_their_files() -> None:
    assert list_hardware() == ["a100", "a6000", "h100", "h200", "rtx4090"]
    assert list_models() == ["llama3-8b", "qwen2-7b", "qwen2.5-32b", "qwen2.5-7b"]
    for name in list_hardware():
        profile = load_hardware(name)
        assert profile.name == name
        assert MODEL in profile.models


def test_step_times_are_measured_where_a_table_exists() -> None:
    in_part = {("a6000", MODEL)}
    own = {(name, model) for name in list_hardware() for model in load_hardware(name).models}
    assert own == set(TABLES) | in_part
    for hardware, model in own:
        times = load_hardware(hardware).models[model]
        assert times.status.startswith("estimated in part: " if (hardware, model) in in_part else "fitted (")
        assert (times.fit_error is None) == ((hardware, model) in in_part)


@pytest.mark.parametrize(("model", "biases", "weight_bytes", "kv_token_bytes"), [
    ("llama3-8b", False, 16_060_522_496, 131_072),
    ("qwen2-7b", True, 15_231_233_024, 57_344),
    ("qwen2.5-7b", True, 15_231_233_024, 57_344),
    ("qwen2.5-32b", True, 65_527_752_704, 262_144),
])
def test_geometry_is_consistent_with_the_published_parameter_count(model: str, biases: bool, weight_bytes: int,
                                                                   kv_token_bytes: int) -> None:
    m = load_model(model)
    query, key = m.heads * m.head_dim, m.kv_heads * m.head_dim
    layer = 2 * m.hidden * (query + key) + biases * (query + 2 * key) + 3 * m.hidden * m.intermediate + 2 * m.hidden
    assert m.layers * layer + 2 * m.vocab * m.hidden + m.hidden == m.parameters
    assert (m.weight_bytes, m.kv_token_bytes) == (weight_bytes, kv_token_bytes)
    assert m.parameters - m.read_parameters == m.vocab * m.hidden


@pytest.mark.parametrize(("hardware", "model", "fraction", "low", "high"), [
    ("rtx4090", MODEL, 0.88, 46_500, 48_000),
    ("rtx4090", "qwen2.5-7b", 0.88, 118_000, 123_000),
    ("a6000", MODEL, 0.88, 217_000, 222_000),
    ("a6000", "qwen2.5-7b", 0.88, 510_000, 520_000),
    ("h200", MODEL, 0.3, 213_000, 217_000),
    ("h200", "qwen2.5-32b", 0.87, 240_000, 250_000),
    ("h100", MODEL, 0.9, 452_000, 462_000),
    ("a100", MODEL, 0.9, 455_000, 465_000),
])
def test_pool_is_what_the_fraction_leaves(hardware: str, model: str, fraction: float, low: int, high: int) -> None:
    machine = build_machine(hardware, model, mem_fraction=fraction)
    assert low <= machine.kv_blocks * machine.block_size <= high
    assert machine.host_kv_blocks == 2 * machine.kv_blocks


def test_kv_tokens_is_the_logged_cache_size_and_the_null_block_comes_off() -> None:
    machine = build_machine("rtx4090", MODEL, kv_tokens=1600, host_kv_tokens=0, mem_fraction=0.1)
    assert (machine.kv_blocks, machine.host_kv_blocks) == (99, 0)
    assert build_machine("rtx4090", MODEL, kv_tokens=1615, host_kv_tokens=33).kv_blocks == 99


def test_defaults_follow_vllm_and_options_replace_them() -> None:
    for name in list_hardware():
        large = load_hardware(name).gpu.memory_bytes >= 70 * 2**30 and name != "a100"
        made = build_machine(name, MODEL)
        assert (made.max_seqs, made.max_step_tokens) == ((1024, 8192) if large else (256, 2048))
    machine = build_machine("h200", MODEL, max_num_seqs=7, max_num_batched_tokens=64, block_size=32, host_s=0.0,
                            link=1, believed_step=1.2, believed_link=0.8)
    assert (machine.max_seqs, machine.max_step_tokens, machine.block_size, machine.latency.host_s) == (7, 64, 32, 0.0)
    assert (machine.h2d_bytes_per_s, machine.d2h_bytes_per_s, machine.believed_step, machine.believed_link) == (1e9, 1e9, 1.2, 0.8)


def test_per_layer_layout_copies_k_and_v_of_each_layer(write: Any) -> None:
    assert build_machine("rtx4090", MODEL).copies_per_block == 1
    assert build_machine(write("kv_layout", "per-layer"), MODEL).copies_per_block == 64


def test_a_profile_may_bring_its_own_model(write: Any) -> None:
    geometry = load_model(MODEL).model_dump() | {"name": "half of it", "layers": 16}
    profile = write("models/half", json.loads(load_hardware("rtx4090").models[MODEL].model_dump_json()) | {"geometry": geometry})
    assert build_machine(profile, "half").kv_token_bytes == 65_536


def test_manifest_says_where_the_numbers_come_from() -> None:
    said = manifest("h200", MODEL)
    assert said["hardware"] == "h200"
    assert said["latency_status"] == "fitted (kernel tables, host time assumed)"
    assert said["fit_test_mape_pct"] == 1.57
    assert "estimated" in str(said["host_s_status"])
    assert "measured on H100" in str(said["link_status"])
    changed = manifest("h200", MODEL, host_s=0.002)
    assert (changed["host_s"], changed["host_s_status"]) == (0.002, "set by the user")


@pytest.mark.parametrize(("args", "options", "says"), [
    (("rtx5090", MODEL), {}, "known are a100, a6000, h100, h200, rtx4090"),
    (("", MODEL), {}, "known are"),
    (("no/such.json", MODEL), {}, "No such file"),
    ((".ci/", MODEL), {}, "hardware profile"),
    (("nul\0.json", MODEL), {}, "null"),
    (("h200", "gpt-2"), {}, "unknown; known are llama3-8b, qwen2-7b, qwen2.5-32b, qwen2.5-7b, or give the path of a Hugging Face"),
    (("rtx4090", MODEL), {"mem_fraction": 0.5}, "weights (16.1 GB)"),
    (("rtx4090", "qwen2.5-32b"), {}, "does not fit on this GPU at all"),
    (("a6000", "qwen2.5-32b"), {"kv_tokens": 1000}, "does not fit on this GPU at all"),
    (("h200", "qwen2.5-32b"), {"mem_fraction": 0.3}, "the smallest fraction that works is 0.44"),
    (("rtx4090", MODEL), {"mem_fraction": 0.0}, "(0, 1]"),
    (("rtx4090", MODEL), {"mem_fraction": 1.01}, "(0, 1]"),
    (("rtx4090", MODEL), {"mem_fraction": nan}, "(0, 1]"),
    (("rtx4090", MODEL), {"kv_tokens": 31}, "less than two blocks"),
    (("rtx4090", MODEL), {"kv_tokens": 100.5}, "whole number"),
    (("rtx4090", MODEL), {"host_kv_tokens": -1}, "at least 0"),
    (("rtx4090", MODEL), {"host_kv_tokens": 15}, "less than one block"),
    (("rtx4090", MODEL), {"block_size": 0}, "at least 1"),
    (("rtx4090", MODEL), {"max_num_seqs": True}, "whole number"),
    (("rtx4090", MODEL), {"max_num_batched_tokens": -3}, "at least 1"),
    (("rtx4090", MODEL), {"host_s": -1e-3}, "zero or more"),
    (("rtx4090", MODEL), {"believed_step": 0.0}, "positive"),
    (("rtx4090", MODEL), {"believed_link": inf}, "positive"),
])
def test_impossible_machines_fail_in_one_line(args: Any, options: Any, says: str) -> None:
    assert says in fault(*args, **options)


def test_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(BadInput, match="known are llama3-8b"):
        load_model("gpt-2")


def test_the_smallest_fraction_named_works_and_a_smaller_one_does_not() -> None:
    line = fault("rtx4090", MODEL, mem_fraction=0.5)
    smallest = float(line.rsplit(" ", 1)[1])
    assert build_machine("rtx4090", MODEL, mem_fraction=smallest).kv_blocks >= 1
    fault("rtx4090", MODEL, mem_fraction=smallest - 2e-4)


def test_activations_grow_with_the_model_that_the_reserve_is_for(write: Any) -> None:
    """A wider MLP takes more, a narrower one no less; a profile that names no model means any."""
    own, wide = (15_231_233_024, 57_344), load_model("qwen2.5-7b")
    taken = [0.9 * 24564 * 2**20 - build_machine(profile, "qwen2.5-7b").kv_blocks * 16 * own[1] - own[0]
             for profile in (load_hardware("rtx4090"), write("reserve_model", ...), write("reserve_model", "qwen2.5-32b"))]
    assert taken == pytest.approx([450e6 * wide.intermediate / 14336, 450e6, 450e6], abs=2 * 16 * own[1])
    assert "scaled by MLP width from llama3-8b" in str(manifest("rtx4090", "qwen2.5-7b")["reserve_status"])
    assert "scaled" not in str(manifest("rtx4090", MODEL)["reserve_status"])


def test_a_model_larger_than_the_gpu_has_no_such_fraction(write: Any) -> None:
    assert "does not fit on this GPU at all" in fault(write("gpu/memory_bytes", 8 * 2**30), MODEL)


@pytest.mark.parametrize(("field", "value", "says"), [
    ("link/h2d_bytes_per_s", -1.0, "link.h2d_bytes_per_s: Input should be greater than 0, got -1.0"),
    ("link/h2d_bytes_per_s", "25e9", 'link.h2d_bytes_per_s: Input should be a valid number, got "25e9"'),
    ("link/h2d_bytes_per_s", ..., "link.h2d_bytes_per_s: missing"),
    ("link/speed", 1, "link.speed: unknown key"),
    ("link/duplex_h2d", 0.0, "link.duplex_h2d: Input should be greater than 0, got 0.0"),
    ("link/duplex_d2h", 1.01, "link.duplex_d2h: Input should be less than or equal to 1, got 1.01"),
    ("gpu/memory_bytes", nan, "gpu.memory_bytes"),
    ("reserve_bytes", inf, "reserve_bytes"),
    ("kv_layout", "paged", "kv_layout"),
    ("host_s/low", 0.5, "outside its range"),
    ("models/llama3-8b/latency/knee", 0.5, "models.llama3-8b.latency.knee"),
    ("models/llama3-8b/latency", NO_TIME, "a step would take no time"),
])
def test_faulty_profiles_name_file_field_and_reason(write: Any, field: str, value: object, says: str) -> None:
    line = fault(write(field, value), MODEL)
    assert says in line
    assert "mine.json" in line


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"name": "x",}', b"[" * 100_000])
def test_files_that_are_no_profile_fail_in_one_line(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(text)
    assert "mine.json" in fault(path, MODEL)


def test_the_simulator_itself_imports_without_pydantic() -> None:
    check = "import sys, sim.latency, sim.machine; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize(("hardware", "model"), sorted(TABLES))
def test_the_model_meets_its_stated_error_on_the_tables(latency_data: Path, hardware: str, model: str) -> None:
    """On all rows whose KV fits beside the weights; the stated errors are of held-out halves, hence the margins."""
    profile, geometry = load_hardware(hardware), load_model(model)
    room = (profile.gpu.memory_bytes - geometry.weight_bytes) / geometry.kv_token_bytes
    errors: dict[str, list[float]] = {"prefill": [], "decode": []}
    with (latency_data / f"{TABLES[hardware, model]}.csv").open() as file:
        for row in csv.DictReader(file):
            n, each = int(row["batch"]), int(row["tokens_or_context"])
            if n * each <= room:
                work = (n * each, 0, n * each**2 / 2, n) if row["phase"] == "prefill" else (n, n * each, 0, n)
                model_s = profile.models[model].latency.with_host(0.0).step_s(*work)
                errors[row["phase"]].append(abs(model_s / (float(row["latency_ms"]) / 1e3) - 1) * 100)
    stated = profile.models[model].fit_error
    assert stated is not None
    everything = errors["prefill"] + errors["decode"]
    assert np.mean(everything) == pytest.approx(stated.test_mape_pct, abs=0.3)
    assert np.mean(errors["prefill"]) <= stated.prefill_mape_pct + 0.3
    assert np.mean(errors["decode"]) <= stated.decode_mape_pct + 0.3
    assert np.percentile(everything, 90) <= stated.p90_pct + 0.5
    assert max(everything) <= stated.max_pct + 3.0


def test_the_a6000_is_its_measured_matrix_products_and_a_margin_for_small_kernels(latency_data: Path) -> None:
    c = load_hardware("a6000").models[MODEL].latency
    with (latency_data / "lss_a6000_llama3.1-8b_gemm.csv").open() as file:
        rows = [(int(row["tokens"]), float(row["model_gemm_ms_32layers"])) for row in csv.DictReader(file)]
    head_ms = 1.406
    errors = []
    for tokens, layers_ms in rows:
        products = (0.0215**c.knee + ((c.token_s - 14e-6) * tokens) ** c.knee) ** (1 / c.knee)
        errors.append(abs(products / ((layers_ms + head_ms) / 1e3) - 1) * 100)
    assert np.mean(errors) == pytest.approx(3.1, abs=0.1)
    assert c.weights_s - 0.0215 == pytest.approx(0.5e-3, abs=0.05e-3)


def test_hardware_objects_are_accepted_where_names_are() -> None:
    profile = load_hardware("a100")
    assert isinstance(profile, Hardware)
    assert build_machine(profile, MODEL) == build_machine("a100", MODEL)


def test_every_seat_may_need_a_token_of_the_step() -> None:
    assert build_machine("h200", "llama3-8b", max_num_batched_tokens=512).max_seqs == 512
    with pytest.raises(BadInput, match="512 tokens a step for 600 requests"):
        build_machine("h200", "llama3-8b", max_num_batched_tokens=512, max_num_seqs=600)
