"""`policies.SGLang` makes the same batches as SGLang's own loop, written out token by token (page size 1)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest
from builders import FAST, Ask, machine, random_asks, run_engine

from policies import SGLang
from sim.machine import Machine

CLIP, MAX_PREFILL, RETRACT_STEPS = 4096, 16384, 20
START, LEAST = 0.7, 0.098
DECAY = (START - LEAST) / 600


@dataclass(eq=False)
class Req:
    id: int
    prompt: int
    limit: int
    output: int = 0
    kv: int = 0

    @property
    def done(self) -> bool:
        return self.output == self.limit


@dataclass
class Server:
    """The loop of SGLang 0.4.6 without a radix cache: `next_batch` is one iteration."""

    free: int
    max_running: int
    chunk: int | None
    queue: list[Req] = field(default_factory=list)
    running: list[Req] = field(default_factory=list)
    last_prefill: list[Req] = field(default_factory=list)
    chunked: Req | None = None
    full: bool = False
    ratio: float = START
    retracted: list[int] = field(default_factory=list)

    def next_batch(self) -> dict[int, int]:
        """{id: tokens} of the next step; empty when there is nothing to run."""
        if any(r.done for r in self.last_prefill):
            self.full = False
        self.running += [r for r in self.last_prefill if not r.done and r is not self.chunked]
        self.last_prefill = []
        batch = self.try_prefill()
        if batch:
            self.last_prefill = [r for r, _ in batch]
            for r, tokens in batch:
                r.kv, self.free = r.kv + tokens, self.free - tokens
            return {r.id: tokens for r, tokens in batch}
        if not self.running:
            self.ratio = START
            return {}
        size = len(self.running)
        self.running = [r for r in self.running if not r.done]
        if not self.running:
            self.full, self.ratio = False, START
            return {}
        if self.free < len(self.running):
            self.retract()
        else:
            self.ratio = max(self.ratio - DECAY, LEAST)
        if len(self.running) < size:
            self.full = False
        for r in self.running:
            r.kv, self.free = r.kv + 1, self.free - 1
        return {r.id: 1 for r in self.running}

    def try_prefill(self) -> list[tuple[Req, int]]:
        if (self.full or not self.queue) and self.chunked is None:
            return []
        if len(self.running) >= self.max_running and self.chunked is None:
            self.full = True
            return []
        rem_input, rem_chunk = MAX_PREFILL, self.chunk
        total_offset = sum(min(r.limit - r.output, CLIP) * self.ratio for r in self.running)
        cur_offset = 0
        batch: list[tuple[Req, int]] = []

        def take(r: Req, tokens: int, reserve: int) -> None:
            nonlocal total_offset, cur_offset, rem_input, rem_chunk
            batch.append((r, tokens))
            total_offset, cur_offset, rem_input = total_offset + tokens + reserve, cur_offset + tokens, rem_input - tokens
            if rem_chunk is not None:
                rem_chunk -= tokens

        if self.chunked is not None:
            r = self.chunked
            left = r.prompt + r.output - r.kv
            assert rem_chunk is not None
            tokens = min(left, rem_chunk)
            take(r, tokens, min(r.limit, CLIP) if tokens == left else 0)
            self.chunked = r if tokens < left else None
        for r in list(self.queue):
            if len(batch) >= self.max_running - len(self.running):
                self.full = True
                break
            tokens, reserve = r.prompt + r.output, min(r.limit, CLIP)
            alone = not self.running and not batch and tokens <= self.free
            if tokens + reserve >= self.free - total_offset and not alone:
                self.full = True
                break
            if tokens > rem_input and batch:
                break
            if rem_chunk is not None and tokens > rem_chunk:
                if rem_chunk <= 0:
                    break
                self.chunked, tokens, reserve = r, rem_chunk, 0
            take(r, tokens, reserve)
            self.queue.remove(r)
            if self.free - total_offset <= 0 or self.free - cur_offset <= 0:
                self.full = True
                break
            if rem_input <= 0 or (rem_chunk is not None and rem_chunk <= 0):
                break
        return batch

    def retract(self) -> None:
        order = sorted(self.running, key=lambda r: (r.output, -r.prompt), reverse=True)
        first = True
        while first or self.free < len(order) * RETRACT_STEPS:
            if len(order) == 1:
                break
            first = False
            victim = order.pop()
            self.free, victim.kv = self.free + victim.kv, 0
            self.queue.append(victim)
            self.retracted.append(victim.id)
        self.running = [r for r in self.running if r in order]
        expected = sum(r.output + RETRACT_STEPS for r in self.running)
        self.ratio = min(1.0, expected / sum(r.limit for r in self.running))


def serve(asks: list[Ask], on: Machine, chunk: int | None) -> tuple[list[dict[int, int]], list[float], list[int]]:
    """Batches, their ends and the retracted ids of a Server on this machine."""
    server, coming = Server(on.kv_blocks, on.max_seqs, chunk), deque(enumerate(asks))
    requests = [Req(id, ask.prompt, ask.output) for id, ask in enumerate(asks)]
    now, batches, ends = 0.0, [], []
    while not all(r.done for r in requests):
        while coming and coming[0][1].arrival_s <= now:
            server.queue.append(requests[coming.popleft()[0]])
        kv = {r.id: r.kv for r in requests}
        batch = server.next_batch() or server.next_batch()
        if not batch:
            now = coming[0][1].arrival_s
            continue
        chunks = [(kv[r.id], batch[r.id]) for r in server.last_prefill]
        pairs = sum(tokens * (before + tokens / 2) for before, tokens in chunks)
        read = 0 if chunks else sum(requests[id].kv - 1 for id in batch)
        now += on.latency.step_s(sum(batch.values()), read, pairs, len(batch))
        for id in batch:
            r = requests[id]
            if r.kv == r.prompt + r.output:
                r.output += 1
                if r.done:
                    server.free += r.kv
        batches.append(batch)
        ends.append(now)
    return batches, ends, server.retracted


def compare(asks: list[Ask], pool: int, seats: int, chunk: int | None) -> int:
    """Asserts equality; returns how many were retracted."""
    on = machine(latency=FAST, kv_blocks=pool, block_size=1, max_seqs=seats, max_step_tokens=1 << 20)
    ran = run_engine(asks, SGLang(chunked_prefill_size=chunk), on)
    batches, ends, retracted = serve(asks, on, chunk)
    for step, (ours, theirs) in enumerate(zip(ran.log.batches, batches)):
        assert ours == theirs, f"step {step}"
    assert len(ran.log.batches) == len(batches)
    np.testing.assert_allclose(ran.log.ends_s, ends, rtol=0, atol=1e-9)
    assert [id for plan in ran.log.plans for id in plan[2]] == retracted
    return len(retracted)


@pytest.mark.parametrize("chunk", [None, 256])
@pytest.mark.parametrize("room", [1.05, 2, 5, 1000])
def test_same_batches_as_sglang(room: float, chunk: int | None) -> None:
    """Random bursts on pools from barely one request to ample."""
    retracted = 0
    for seed in range(8):
        rng = np.random.default_rng([seed, int(room)])
        asks = random_asks(rng, int(rng.integers(10, 60)), prompt=400, output=300, rate=float(rng.choice([2, 20, 200])))
        pool = int(room * max(ask.prompt + ask.output for ask in asks))
        retracted += compare(asks, pool, 4096, chunk)
    assert (retracted > 0) == (room < 1000)


def test_same_batches_when_prompts_are_alike() -> None:
    """One burst of equal prompts: among equal outputs, the place in the batch decides who goes."""
    outputs = np.random.default_rng(0).integers(100, 400, 60)
    assert compare([Ask(0.0, 100, int(output)) for output in outputs], pool=2500, seats=4096, chunk=None) > 0


@pytest.mark.parametrize("seats", [1, 3, 10])
def test_same_batches_with_few_seats(seats: int) -> None:
    for seed in range(6):
        asks = random_asks(np.random.default_rng(seed), 40, prompt=300, output=200, rate=[1, 50][seed % 2])
        compare(asks, pool=2000, seats=seats, chunk=None)
