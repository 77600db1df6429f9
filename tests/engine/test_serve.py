"""Clients that know nothing of this project, against `tokenflow-calibrate serve`; and what its /metrics say meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vllm 0.32.0 cannot be imported")

from server import BELIEFS, HOST_BLOCKS, PATIENCE_S, POOLS, Server

pytestmark = pytest.mark.engine

ROUNDS = 8
HOMES = ("none", "gpu", "host", "loading", "evicting")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("serve"), "tiny", "--policy", "tokenflow[interval_s=0.2]", *BELIEFS, *POOLS) as running:
        yield running


async def stream(client: Any, tokens: int, **xargs: Any) -> int:
    """Output tokens that came."""
    extra = {"ignore_eos": True, "vllm_xargs": {"consumption_rate": 12.0, "priority": 2.0} | xargs}
    chunks = await client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "tell me " * 20}], max_tokens=tokens, stream=True,
        stream_options={"include_usage": True}, extra_body=extra)
    counted = 0
    async for chunk in chunks:
        counted = chunk.usage.completion_tokens if chunk.usage else counted
    return counted


def test_the_openai_client_streams_from_a_server_that_preempts(server: Server) -> None:
    """More readers than the GPU pool holds, each slower than the engine."""
    seen: list[dict[str, float]] = []

    async def look() -> None:
        while True:
            seen.append(await asyncio.to_thread(server.metrics))
            await asyncio.sleep(0.3)

    def shown(name: str) -> float:
        return max(each[f"tokenflow:{name}"] for each in seen)

    async def all_of_them() -> list[int]:
        looking = asyncio.create_task(look())
        async with server.client() as client:
            counted = await asyncio.gather(*(stream(client, 220, consumption_rate=rate) for rate in (5.0, 12.0, "15/8@100") * 4))
        looking.cancel()
        return counted

    for _ in range(ROUNDS):     # on a busy machine a round may be over between two looks
        assert asyncio.run(all_of_them()) == [220] * 12
        if shown("host_blocks_used") and shown("buffered_tokens"):
            break
    server.await_(server.idle)
    last = server.metrics()
    assert last["tokenflow:decisions_total"] > 0
    assert last["tokenflow:steps_total"] >= 220
    assert last["tokenflow:preemptions_total"] == last["tokenflow:offloads_total"] + last["tokenflow:drops_total"] > 0
    assert 0 < last["tokenflow:loads_total"] <= last["tokenflow:offloads_total"]
    assert last["tokenflow:loaded_bytes_total[emulated_link=true]"] > 0
    copied = [last[f"tokenflow:{name}_bytes_total[emulated_link=true]"] for name in ("written_through", "evicted")]
    assert sum(copied) > 0
    assert last["tokenflow:link_d2h_busy_seconds_total[emulated_link=true]"] == pytest.approx(sum(copied) / 0.05e9, rel=0.01)
    assert last["tokenflow:host_blocks_total"] == HOST_BLOCKS
    assert last["tokenflow:host_blocks_used"] == last["tokenflow:buffered_tokens"] == 0
    assert last["tokenflow:plan_departures_total"] == last["tokenflow:policy_fallbacks_total"] == 0
    assert shown("host_blocks_used") > 0
    assert shown("buffered_tokens") > 0
    for each in seen:
        streams = [each[f"tokenflow:streams[residency={home}]"] for home in HOMES]
        assert sum(streams) <= 12
        buffered = [each[f"tokenflow:buffered_tokens_by_residency[residency={home}]"] for home in HOMES]
        assert sum(buffered) == pytest.approx(each["tokenflow:buffered_tokens"], abs=1e-6)


def test_who_schedules_and_on_what_link_is_told(server: Server) -> None:
    (info,) = [name for name in server.metrics() if name.startswith("tokenflow:policy_info")]
    for said in ("policy=tokenflow[interval_s=0.2]", "profile=h200", "profile_model=llama3-8b", "emulated_link_gb_per_s=0.05"):
        assert f"[{said}]" in info
    assert "emulated link of 0.05 GB/s" in server.log.read_text()


def test_vllm_bench_serve(server: Server, tmp_path: Path) -> None:
    tokenizer = server.cache / "tokenflow-lab" / "models" / "tiny"
    words = ["--backend", "openai", "--base-url", server.url, "--model", "tiny", "--tokenizer", str(tokenizer),
             "--dataset-name", "random", "--random-input-len", "64", "--random-output-len", "32", "--num-prompts", "12",
             "--ignore-eos", "--save-result", "--result-dir", str(tmp_path), "--result-filename", "result.json"]
    ran = subprocess.run([sys.executable, str(Path(__file__).with_name("bench_serve.py")), *words], cwd=tmp_path, text=True,
                         capture_output=True, timeout=PATIENCE_S, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert ran.returncode == 0, ran.stderr[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result["failed"], result["total_output_tokens"]) == (12, 0, 12 * 32)
    server.await_(server.idle)


def test_stock_is_vllms_own_scheduler(tmp_path: Path) -> None:
    with Server(tmp_path, "tiny", "--policy", "stock", *POOLS) as server:

        async def one() -> int:
            async with server.client() as client:
                return await stream(client, 20)

        assert asyncio.run(one()) == 20
        assert server.metrics("vllm:")
        assert not server.metrics("tokenflow:")
