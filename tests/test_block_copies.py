"""Write-through in whole blocks: what has a copy, against counting block by block; blocks of one token are tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import Ask, Log, Rotate, machine, random_asks, random_machine, run_engine
from hypothesis import given, settings
from hypothesis import strategies as st
from random_policy import RandomPolicy

from policies.api import Plan, Residency, View
from policies.tokenflow import TokenFlow
from sim.engine import Engine
from sim.link import host_links
from sim.run import Run
from sim.write_through import WriteThrough

POLICIES = {"rotate": lambda seed: Rotate(rich_s=0.5), "random": RandomPolicy, "tokenflow": lambda seed: TokenFlow(interval_s=0.3)}


class Counted(Log):
    """Follows every block of everyone who is written through, one by one, and holds the engine to it after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0
        self._host: dict[int, float] = {}

    def decided(self, engine: Engine, view: View, plan: Plan) -> None:
        super().decided(engine, view, plan)
        for id, host, at in zip(view.id.tolist(), view.host_tokens.tolist(), view.residency.tolist()):
            assert at > Residency.GPU or host == self._host.get(id, host)
        self._host = dict(zip(view.id.tolist(), view.host_tokens.tolist()))
        for id in (*plan.forget, *plan.drop):
            self._host[int(id)] = 0.0

    def ran(self, engine: Engine, run: Run) -> None:
        super().ran(engine, run)
        if not engine.copies.n:
            return
        q, bs, (end_s, *more) = engine.requests, engine.machine.block_size, run.ends_s.tolist()
        assert not more, "followed step by step"
        room = engine.write_through.hidden_blocks(run.start_s, end_s)
        for row in engine.copies.rows.tolist():
            id, host = int(q.id[row]), int(self._host[int(q.id[row])])
            for block in range(host // bs, int(q.computed_tokens[row]) // bs):
                if room < 1:
                    return
                room, self._host[id], self.written = room - 1, (block + 1) * bs, self.written + 1


@pytest.mark.parametrize("name", POLICIES)
def test_every_block_is_counted(name: str) -> None:
    written = 0
    for seed in range(8):
        rng = np.random.default_rng([seed, 7])
        asks = random_asks(rng, 25, output=200)
        on = replace(random_machine(rng, asks, tight=True), write_whole_blocks=True, believed_step=1.0, believed_link=1.0,
                     host_kv_blocks=200)
        log = Counted()
        ran = run_engine(asks, POLICIES[name](seed), on, watch=log)
        written += log.written
        assert log.written * on.block_size == ran.engine.write_through.tokens
    assert written > 200


@pytest.mark.unaudited
@pytest.mark.parametrize("name", POLICIES)
def test_nobody_watching_changes_nothing(name: str) -> None:
    """Unwatched, runs that keep up are booked in one go."""
    for seed in range(10):
        rng = np.random.default_rng([seed, 8])
        asks = random_asks(rng, 25, output=200)
        on = replace(random_machine(rng, asks, tight=True), write_whole_blocks=True)
        seen, alone = (run_engine(asks, POLICIES[name](seed), on, watched=watched) for watched in (True, False))
        assert np.allclose(seen.engine.clock.ends_s(), alone.engine.clock.ends_s(), rtol=0, atol=1e-9)
        assert seen.engine.write_through.tokens == alone.engine.write_through.tokens
        assert seen.engine.count.decisions == alone.engine.count.decisions
        assert seen.engine.d2h.blocks == pytest.approx(alone.engine.d2h.blocks)


@pytest.mark.parametrize("name", POLICIES)
def test_a_block_of_one_token_is_a_token(name: str) -> None:
    """Where the link keeps up; where it does not, tokens cross in fractions and blocks do not."""
    for seed in range(3):
        asks = random_asks(np.random.default_rng([seed, 9]), 20)
        on = machine(block_size=1, kv_blocks=1500, host_kv_blocks=2000)
        by_token, by_block = (run_engine(asks, POLICIES[name](seed), replace(on, write_whole_blocks=whole))
                              for whole in (False, True))
        assert by_token.log.plans == by_block.log.plans
        assert by_token.log.batches == by_block.log.batches


@settings(max_examples=300, deadline=None)
@given(step_s=st.floats(1e-4, 0.5), queued_s=st.floats(0, 0.6), loads_s=st.floats(0, 0.6), share=st.floats(0.1, 1.0),
       believed=st.sampled_from([(1.0, 1.0), (1.6, 1.0), (0.5, 2.0)]), free=st.booleans())
def test_blocks_hidden_are_the_tokens_hidden(step_s: float, queued_s: float, loads_s: float, share: float,
                                             believed: tuple[float, float], free: bool) -> None:
    on = machine(write_share=share, believed_step=believed[0], believed_link=believed[1], duplex_d2h=0.4,
                 d2h_bytes_per_s=np.inf if free else 1e9, copy_overhead_s=0.0)
    h2d, d2h = host_links(on)
    h2d.free_s, d2h.free_s = 7.0 + loads_s, 7.0 + queued_s
    writer = WriteThrough(on, d2h)
    tokens = writer.hidden_tokens(7.0, np.array([7.0 + step_s]))[0]
    blocks = writer.hidden_blocks(7.0, 7.0 + step_s)
    assert blocks == (np.inf if free else np.floor((tokens + 1e-6) / on.block_size))


class Leaves:
    """Decodes one request, written through, until it has so many tokens; then it is offloaded and brought back, over and over."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.left = tokens, []

    def plan(self, view: View) -> Plan:
        everyone, computed, at = view.id.copy(), int(view.computed_tokens[0]), int(view.residency[0])
        if at == 0:
            return Plan(prefill=((0, int(view.remaining_tokens[0])),))
        if at == 2:
            return Plan(load=everyone)
        if at != 1:
            return Plan()
        if len(self.left) < len(self.tokens) and computed >= self.tokens[len(self.left)]:
            self.left.append(computed - int(view.host_tokens[0]))
            return Plan(offload=everyone)
        return Plan(decode=everyone, store=everyone, wake_after_steps=1)


def unwritten(tokens: list[int], **changes: Any) -> list[int]:
    """Tokens without a copy at each of the offloads, of a request with a prompt of 40."""
    ran = run_engine([Ask(0.0, 40, 100)], Leaves(tokens), machine(write_whole_blocks=True, **changes))
    return ran.policy.left


def test_what_is_left_to_write_is_less_than_a_block_and_the_step() -> None:
    # 49 tokens: the 49th completes no block. 64: the step that completes the fourth block is the last, its block is not written.
    assert unwritten([49]) == [1]
    assert unwritten([63]) == [15]
    assert unwritten([64]) == [16]
    assert unwritten([65]) == [1]


def test_the_copy_of_a_part_of_a_block_lasts_until_it_grows() -> None:
    """Back from the host with 50 tokens copied, the fourth block is written again only when it is full."""
    assert unwritten([50, 51, 63, 65]) == [2, 1, 12, 1]


