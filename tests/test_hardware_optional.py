"""Profiles without a link to host memory, without GPU memory, and with the KV pool that an engine was seen to have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim.cli import main
from sim.hardware import build_machine, load_hardware, manifest
from sim.simulate import simulate
from traces import generate
from traces.errors import BadInput

MODEL = "llama3-8b"


def profile(tmp_path: Path, **changes: Any) -> Path:
    """The RTX 4090's, changed: `link=None` takes the link away, `kv_tokens` adds a measured pool, `memory_bytes` is the GPU's."""
    content = json.loads(load_hardware("rtx4090").model_dump_json(exclude_none=True))
    if "link" in changes:
        del content["link"]
    if "kv_tokens" in changes:
        content["models"][MODEL]["kv_tokens"] = changes["kv_tokens"]
    if "memory_bytes" in changes:
        content["gpu"]["memory_bytes"] = changes["memory_bytes"]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    return path


def test_without_a_link_there_is_no_host_tier(tmp_path: Path) -> None:
    mine = profile(tmp_path, link=None)
    machine, usual = build_machine(mine, MODEL), build_machine("rtx4090", MODEL)
    assert machine.host_kv_blocks == 0
    assert machine.kv_blocks == usual.kv_blocks
    said = manifest(mine, MODEL)
    assert said["link_status"] == "absent: no host tier, whoever is preempted is computed anew"
    assert "link_duplex_status" not in said


def test_a_run_without_a_link_is_one_with_link_none(tmp_path: Path) -> None:
    trace = generate(12, input_len="normal:150:30", output_len="normal:60:12", seed=1)
    absent, none = (simulate("tokenflow", trace, hardware, MODEL, kv_tokens=1_000, **options)
                    for hardware, options in ((profile(tmp_path, link=None), {}), ("rtx4090", {"link": "none"})))
    assert absent.metrics.ttft_s.tolist() == none.metrics.ttft_s.tolist()
    assert absent.summary["h2d_bytes"] == none.summary["h2d_bytes"] == 0


def test_the_table_says_that_links_are_absent(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--policy", "vllm", "--num-prompts", "2", "--output-len", "5",
                 "--hardware", str(profile(tmp_path, link=None))]) == 0
    assert "links absent" in " ".join(capsys.readouterr().out.split())


def test_the_user_may_give_a_link_where_there_is_none(tmp_path: Path) -> None:
    mine = profile(tmp_path, link=None)
    machine = build_machine(mine, MODEL, link=20)
    assert machine.h2d_bytes_per_s == machine.d2h_bytes_per_s == 20e9
    assert machine.host_kv_blocks == 2 * machine.kv_blocks
    assert manifest(mine, MODEL, link=20)["link_status"] == "set by the user: 20 GB/s each way"
    assert build_machine(mine, MODEL, link="oracle").host_kv_blocks == 2 * machine.kv_blocks


def test_a_host_pool_needs_a_link(tmp_path: Path) -> None:
    mine = profile(tmp_path, link=None)
    with pytest.raises(BadInput, match=r"host_kv_tokens: .*: 160 tokens, but this hardware has no link to host memory; give link"):
        build_machine(mine, MODEL, host_kv_tokens=160)
    assert build_machine(mine, MODEL, host_kv_tokens=0).host_kv_blocks == 0


def test_a_measured_pool_replaces_the_arithmetic_until_the_user_says_otherwise(tmp_path: Path) -> None:
    mine, usual = profile(tmp_path, kv_tokens=1600), build_machine("rtx4090", MODEL)
    assert build_machine(mine, MODEL).kv_blocks == 99
    assert build_machine(mine, MODEL, block_size=32).kv_blocks == 49
    assert build_machine(mine, MODEL, mem_fraction=0.9).kv_blocks == usual.kv_blocks
    assert build_machine(mine, MODEL, kv_tokens=3200).kv_blocks == 199
    assert manifest(mine, MODEL)["kv_pool_status"] == "measured: 1600 tokens in the profiled engine"
    assert manifest(mine, MODEL, mem_fraction=0.9).get("kv_pool_status") is None
    assert manifest(mine, MODEL, kv_tokens=3200).get("kv_pool_status") is None
    assert "kv_pool_status" not in manifest("rtx4090", MODEL)


def test_a_measured_pool_is_of_its_own_model_only(tmp_path: Path) -> None:
    mine = profile(tmp_path, kv_tokens=1600)
    assert build_machine(mine, "qwen2.5-7b").kv_blocks == build_machine("rtx4090", "qwen2.5-7b").kv_blocks


def test_without_gpu_memory_the_pool_must_be_measured_or_given(tmp_path: Path) -> None:
    mine = profile(tmp_path, memory_bytes=0)
    with pytest.raises(BadInput, match=r"kv_tokens: llama3-8b on rtx4090: the profile knows no GPU memory to divide"):
        build_machine(mine, MODEL)
    with pytest.raises(BadInput, match=r"kv_tokens: .*knows no GPU memory"):
        build_machine(mine, MODEL, mem_fraction=0.5)
    assert build_machine(mine, MODEL, kv_tokens=1600).kv_blocks == 99
    assert build_machine(profile(tmp_path, memory_bytes=0, kv_tokens=1600), MODEL).kv_blocks == 99
