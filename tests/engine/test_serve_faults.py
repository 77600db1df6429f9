"""Over the real server: clients that leave, requests of every kind, readers described in nonsense, a policy that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vllm 0.32.0 cannot be imported")

import openai
from failing import LAST_STRAW
from server import BELIEFS, BLOCK, GPU_BLOCKS, POOLS, Server

pytestmark = pytest.mark.engine

ON_DEMAND = f"{Path(__file__).with_name('failing.py')}:OnDemand"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    words = ["tiny", "--policy", ON_DEMAND, "--policy-arg", "rich_s=0.1", *BELIEFS, *POOLS]
    with Server(tmp_path_factory.mktemp("faults"), *words) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_is_left(server: Server) -> Iterator[None]:
    """After each test every block is free again, on both tiers."""
    yield
    server.await_(server.idle)
    assert server.metrics()["tokenflow:host_blocks_used"] == 0
    assert list(server.metrics("vllm:kv_cache_usage_perc").values()) == [0.0]
    assert server.metrics()["tokenflow:plan_departures_total"] == 0


def asked(server: Server, **ask: Any) -> Any:
    """One completion."""
    async def ask_it() -> Any:
        async with server.client() as client:
            return await client.completions.create(**{"model": "tiny", "prompt": "tell me", "max_tokens": 20} | ask)
    return asyncio.run(ask_it())


def reader(**xargs: Any) -> dict[str, Any]:
    return {"ignore_eos": True, "vllm_xargs": xargs}


async def stream(client: Any, tokens: int, leave_after: int | None = None, **xargs: Any) -> int:
    """Chunks that came before it ended, or the client went."""
    chunks = await client.completions.create(model="tiny", prompt="tell me " * 25, max_tokens=tokens, stream=True,
                                             extra_body=reader(**xargs) | {"return_token_ids": True})
    counted = 0
    async for chunk in chunks:
        counted += len(chunk.choices[0].token_ids or ())
        if leave_after is not None and counted >= leave_after:
            await chunks.close()
            break
    return counted


def streams(server: Server, tokens: int, leave_after: list[int | None], **last: Any) -> list[int]:
    """All at once; the last has this of its own."""
    async def all_of_them() -> list[int]:
        async with server.client() as client:
            before = [stream(client, tokens, after) for after in leave_after[:-1]]
            return await asyncio.gather(*before, stream(client, tokens, leave_after[-1], **last))
    return asyncio.run(all_of_them())


def test_clients_that_leave_in_mid_stream(server: Server) -> None:
    """The others get everything; the pools hold half of them."""
    leave: list[int | None] = [None, 3, 40, None, 90, 150, None, 10, None, 60, 120, None]
    came = streams(server, 200, leave)
    assert all(tokens == 200 if after is None else tokens >= after for tokens, after in zip(came, leave))
    assert sum(came) < 200 * len(leave)
    assert server.metrics()["tokenflow:offloads_total"] > 0


@pytest.mark.parametrize(("xargs", "said"), [
    ({"consumption_rate": "abc"}, "consumption_rate: 'abc' is not a number"),
    ({"consumption_rate": -1}, "consumption_rate: -1 must be above 0"),
    ({"consumption_rate": "nan"}, "consumption_rate: 'nan' is NaN"),
    ({"consumption_rate": [1, 2]}, "consumption_rate: [1, 2] is not a number"),
    ({"consumption_rate": "30/10@0"}, "consumption_rate: '30/10@0' is not a pace"),
    ({"priority": 0}, "priority: 0 must be above 0"),
    ({"priority": "1e999"}, "priority: '1e999' is larger"),
    ({"ttft_slo_s": "soon", "reader": 1}, "ttft_slo_s: 'soon' is not a number"),
    ({"reader": "maybe"}, "reader: 'maybe' is none of true"),
])
def test_readers_that_make_no_sense_are_served_as_any(server: Server, xargs: dict[str, Any], said: str) -> None:
    before = server.metrics()["tokenflow:invalid_xargs_total"]
    assert asked(server, extra_body=reader(**xargs)).usage.completion_tokens == 20
    assert said in server.log.read_text()
    server.await_(lambda: server.metrics()["tokenflow:invalid_xargs_total"] == before + 1)


def test_readers_that_make_sense_are_not_complained_about(server: Server) -> None:
    before = server.metrics()["tokenflow:invalid_xargs_total"]
    good = {"consumption_rate": "30/10@200", "priority": 2.5, "ttft_slo_s": 0.5, "tpot_slo_s": "0.1", "reader": 0, "others": "x"}
    assert asked(server, extra_body=reader(**good)).usage.completion_tokens == 20
    assert asked(server, extra_body=reader(priority="none")).usage.completion_tokens == 20
    server.await_(lambda: server.metrics()["tokenflow:invalid_xargs_total"] > before)
    assert server.metrics()["tokenflow:invalid_xargs_total"] == before + 1


def test_logprobs_several_answers_and_stop_strings(server: Server) -> None:
    answer = asked(server, logprobs=3, n=3, temperature=1.0, extra_body=reader())
    assert [len(choice.logprobs.tokens) for choice in answer.choices] == [20] * 3
    words = asked(server, seed=1, temperature=1.0, max_tokens=40, extra_body=reader()).choices[0].text
    stop = words[len(words) // 2:][:3]
    stopped = asked(server, seed=1, temperature=1.0, max_tokens=40, stop=[stop], extra_body=reader()).choices[0]
    assert (stopped.text, stopped.finish_reason) == (words[:words.index(stop)], "stop")
    assert asked(server, max_tokens=1, extra_body={"prompt_logprobs": 1}).choices[0].prompt_logprobs


def test_a_prompt_longer_than_the_pool_is_refused(server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        asked(server, prompt=[5] * (BLOCK * GPU_BLOCKS + 1), max_tokens=1)
    assert asked(server, prompt=[5] * (BLOCK * GPU_BLOCKS - 1), max_tokens=1).usage.completion_tokens == 1


def test_a_policy_that_fails_at_last(server: Server) -> None:
    """Everybody is served to the end, those on the host too; the log and /metrics tell."""
    assert server.metrics()["tokenflow:policy_fallbacks_total"] == 0
    assert streams(server, 200, [None] * 12, priority=LAST_STRAW) == [200] * 12
    server.await_(server.idle)
    assert server.metrics()["tokenflow:policy_fallbacks_total"] == 1
    assert "policy OnDemand failed, serving first come first served from now on: KeyError: '666'" in server.log.read_text()
    assert streams(server, 50, [None] * 4) == [50] * 4
