"""Clients, policies and requests that do what they should not: everyone else is served, nothing hangs, no block is lost."""

from __future__ import annotations

from typing import Any

import pytest
from told import told_by

pytestmark = pytest.mark.engine

HOWS = ("raises", "exits", "says_nonsense", "is_illegal", "overfills", "writes", "idles", "hears_nothing", "never_rests")


@pytest.fixture(scope="module")
def slow() -> dict[str, Any]:
    """A link on which copies outlast several steps."""
    told: dict[str, Any] = told_by("faults.py", "60", "0.01", *HOWS)
    return told


def test_a_client_may_go_in_any_state(slow: dict[str, Any]) -> None:
    told = slow["aborts"]
    assert {"loading", "evicting", "host"} <= told["states"].keys(), "too tame to tell"
    assert set(told["wrong"]) <= set(told["gone"]), "who stays gets its own tokens"
    assert (told["leaked"], told["left"], told["fallbacks"]) == ([0, 0], 0, 0)


@pytest.mark.parametrize("how", HOWS)
def test_a_policy_that_fails_is_replaced(slow: dict[str, Any], how: str) -> None:
    """In the middle of moving KV: those on the host, or on their way, come back, and all say what they say alone."""
    assert slow["rotate"]["fallbacks"] == 0
    assert slow[how]["fallbacks"] == 1
    assert slow[how]["wrong"] == []
    assert (slow[how]["leaked"], slow[how]["left"]) == ([0, 0], 0)


def test_a_host_pool_without_room() -> None:
    """Of fewer blocks than one long request has: who does not fit is computed anew."""
    told = told_by("faults.py", "12", "0.05", "raises")
    for name in ("aborts", "rotate", "raises"):
        assert told[name]["least_host_free"] <= 2, "never full"
        assert set(told[name]["wrong"]) <= set(told[name].get("gone", ()))
        assert (told[name]["leaked"], told[name]["left"]) == ([0, 0], 0)
    assert told["departures"] == 0


def test_answers_with_a_grammar() -> None:
    """Nobody plans for them before it is compiled; one that cannot be compiled ends, and harms nobody."""
    told = told_by("grammars.py")
    texts = told["texts"]
    assert set(texts["[ab]{7}"]) <= set("ab")
    assert len(texts["[ab]{7}"]) == 7
    assert (texts["[c]{60}"], texts["[s]{5}"], texts["[x]{5}"]) == ("c" * 60, "s" * 5, "")
    assert told["slow_arrives_after"] > 20
    assert told["same"], "the others say what they say without them"
    assert told["loads"] > 0
    assert (told["leaked"], told["left"], told["plan_fidelity"], told["fallbacks"]) == ([0, 0], 0, 1.0, 0)
