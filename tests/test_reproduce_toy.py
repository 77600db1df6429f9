"""Fig. 6 of the paper, played from beginning to end: two slots of 40 tokens/s, three readers."""

from __future__ import annotations

import pytest

from sim.reproduce.items.toy import play


def test_slots_change_hands_as_in_the_paper() -> None:
    slots, stalled = play()
    assert not [when for when, _ in slots.left if when < 2.9]
    assert slots.left_near(3.0) == {0}
    assert slots.taken_near(3.0) == {2}
    assert slots.left_near(5.0) == {1}
    assert slots.taken_near(5.0) == {0}
    assert stalled == pytest.approx([0.0, 0.0, 0.0], abs=1e-3)
