"""Our `vllm` policy in the simulator and vLLM's own scheduler, left alone: every batch, victim and step time must be equal."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import ModuleType

import pytest
from cases import load, machine
from model_engine import simulated
from recording import difference

from policies import POLICIES

pytestmark = pytest.mark.engine

STEPS = 10_000


@pytest.mark.parametrize("reserve", [True, False], ids=["reserve", "no_reserve"])
@pytest.mark.parametrize(("memory", "budget", "victims"), [("tight", None, 100), ("ample", None, 0), ("tight", 64, 100)],
                         ids=["tight", "ample", "chunked"])
def test_every_step_is_vllms_own(fake: ModuleType, memory: str, budget: int | None, victims: int, reserve: bool,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    total, seed = Counter[str](), 0
    while total["steps"] < STEPS or total["victims"] < victims:
        asks, on = load(seed, 100, 1000, 300), machine(seed, 1300, memory, "none")
        if budget:
            on = replace(on, max_step_tokens=max(budget, on.max_seqs))
        model, _ = simulated(asks, POLICIES["vllm"](reserve_whole_prompt=reserve), on)
        model.decisions.clear()
        stock = fake.FakeEngine(asks, None, on, scheduler_reserve_full_isl=reserve).run()
        assert not difference(model, stock), f"seed {seed}, {on}"
        total += stock.tally()
        total["full steps"] += sum(sum(batch.values()) == on.max_step_tokens for _, batch, _ in stock.steps)
        seed += 1
    with capsys.disabled():
        print(f"\n{seed} runs equal:", ", ".join(f"{n:,} {what}" for what, n in total.items() if n))
    assert total["victims"] >= victims
    assert total["full steps"] >= (2000 if budget else 100), "prompts were hardly cut"
