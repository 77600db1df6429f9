"""Moved to the host and back, over and over, every request says the same; and it would not, were its copy another."""

from __future__ import annotations

from typing import Any

import pytest
from told import told_by

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module", params=[("60", "0.05"), ("400", "real")], ids=["small pool, slow link", "large pool, as it is"])
def told(request: pytest.FixtureRequest) -> dict[str, Any]:
    return told_by("same_tokens.py", *request.param)


@pytest.mark.parametrize("how", ["greedy", "seeded"])
def test_tokens_are_the_same(told: dict[str, Any], how: str) -> None:
    """Alone on the engine, and in turns with nine others."""
    run = told[how]
    assert run["rotated"] == run["alone"]
    assert all(len(set(tokens)) > 30 for tokens in run["alone"]), "says too little to tell"
    assert len(run["resumed"]) >= 10
    assert run["poisoned"] > 100, "blocks left behind were spoilt"


def test_a_resume_computes_one_token(told: dict[str, Any]) -> None:
    """Instead of its context."""
    resumed = told["greedy"]["resumed"] + told["seeded"]["resumed"]
    assert {tokens for _, tokens, _ in resumed} == {1}
    assert max(context for _, _, context in resumed) > 250


def test_a_spoilt_copy_changes_whoever_came_back_and_nobody_else(told: dict[str, Any]) -> None:
    run = told["spoilt"]
    changed = {name for name, a, b in zip(run["names"], run["alone"], run["rotated"]) if a != b}
    back = {name for name, _, _ in run["resumed"]}
    assert changed == back
    assert back


def test_plans_were_carried_out_and_nothing_is_lost(told: dict[str, Any]) -> None:
    assert told["plan_fidelity"] == 1.0
    assert told["leaked"] == [0, 0]
    assert told["offloads"] > 30
    assert told["write_through_bytes"] > 0
