"""Fig. 6 of the paper, played: two slots of 40 tokens/s; R1 and R2 read 20 and 30 tokens/s from 0 on, R3 25 from 2 on."""

from __future__ import annotations

from sim.reproduce.items.toy import play


def test_who_leaves_when_and_for_whom() -> None:
    slots, stalled_s = play()
    assert not slots.left_near(2.0)
    assert slots.left_near(3.0) == {0}
    assert 2 in slots.taken_near(3.0)
    assert slots.left_near(5.0) == {1}
    assert 0 in slots.taken_near(5.0)
    assert max(stalled_s) < 1e-3
