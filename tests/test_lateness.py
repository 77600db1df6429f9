"""How late readers are, and QoE a while ahead, against figures worked out by hand and a reader followed token by token."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from builders import machine, view_of

from policies.api import Residency, View
from policies.lateness import Lateness

NONE, GPU = Residency.NONE, Residency.GPU
ON = machine()


def lateness(view: View, *before: View) -> Lateness:
    readers = Lateness(1.0)
    for each in (*before, view):
        readers.observe(each)
    return readers


def test_a_first_token_one_second_late() -> None:
    """10 tokens/s, expected at 1 s, begun at 2 s, at 5 s token 31 is being read: 3 s lie behind the reader instead of 4."""
    readers = lateness(view_of(ON, 5.0, [10], [31], [GPU], rate=10.0))
    assert (readers.unread_s.item(), readers.age_s.item(), readers.late_s.item()) == pytest.approx((0.1, 4.0, 1.0))
    assert readers.delay_s2.item() == pytest.approx(0.5 + 3.0), "it grew from 0 to 1, then 3 s of reading at 1"
    assert 1 - readers.delay_s2.item() / 8 == pytest.approx((3 / 4) ** 2), "area read over area expected: Andes' own rule of thumb"


def test_qoe_ahead_by_hand() -> None:
    readers = lateness(view_of(ON, 5.0, [10], [31], [GPU], rate=10.0))

    def qoe(starts_s: float, speed: float) -> float:
        return readers.qoe(slice(None), 10.0, starts_s, speed).item()
    whole = 14.0**2 / 2
    assert qoe(0.0, 1.5) == pytest.approx(1 - (3.5 + 10) / whole)
    assert qoe(inf, 0.0) == pytest.approx(1 - (3.5 + 0.1 + 9.9 * (1 + 10.9) / 2) / whole), "0.1 s to read, then 9.9 s of nothing"
    assert qoe(0.0, 0.5) == pytest.approx(1 - (3.5 + 0.2 + 9.8 * (1 + 5.9) / 2) / whole), "the 0.1 s last for 0.2"
    assert qoe(4.1, 2.0) == pytest.approx(1 - (3.5 + 0.1 + 4.0 * (1 + 5) / 2 + 5.9 * 5) / whole), "a stall of 4 s"
    assert readers.qoe(slice(None), 10.0, np.array([[0.0], [inf]]), 1.0).shape == (2, 1)


def test_before_the_first_token_is_expected_nothing_is_lost() -> None:
    readers = lateness(view_of(ON, 0.5, [10], [0], [NONE]))
    assert readers.qoe(slice(None), 0.4, inf, 0.0).item() == 1
    assert readers.qoe(slice(None), 10.0, inf, 0.0).item() == pytest.approx(0), "9.5 s expected, nothing read"
    assert readers.qoe(slice(None), 10.0, 0.5, 1.0).item() == 1, "at once is in time"
    late = 1 - (1.5**2 / 2 + 1.5 * 8) / (9.5**2 / 2)
    assert readers.qoe(slice(None), 10.0, 2.0, 1.0).item() == pytest.approx(late)


def test_a_stall_between_two_views() -> None:
    """On time with 1 s to read at 5 s; paused; at 9 s 10 more tokens are out, half a second of which is read."""
    before = view_of(ON, 5.0, [10], [50], [GPU], rate=10.0, slack_s=[0.9])
    after = view_of(ON, 9.0, [10], [60], [GPU], rate=10.0, slack_s=[0.4])
    readers = lateness(after, before)
    assert lateness(before).late_s.item() == pytest.approx(0)
    assert readers.late_s.item() == pytest.approx(2.5), "4 s passed, 1.5 s of them were read"
    assert readers.delay_s2.item() == pytest.approx(2.5**2 / 2 + 2.5 * 0.5)


def test_lateness_against_a_reader_followed_token_by_token() -> None:
    """Random pauses and rates, looked at every 50 ms: the area is what summing millisecond by millisecond gives."""
    rng = np.random.default_rng(3)
    for _ in range(5):
        rate, begun = float(rng.uniform(5, 30)), float(rng.uniform(0.2, 4))
        gaps = rng.exponential(1.2 / rate, 200) * rng.choice([0.5, 1, 20], 200, p=[0.5, 0.48, 0.02])
        out = begun + np.concatenate(([0.0], gaps)).cumsum()
        taken = np.maximum.accumulate(out - np.arange(len(out)) / rate) + np.arange(len(out)) / rate
        readers, times = Lateness(1.0), np.arange(0.01, float(taken[-1]), 0.05)
        for t in times.tolist():
            k = int(out.searchsorted(t, side="right"))
            view = view_of(ON, t, [10], [k], [GPU if k else NONE], rate=rate)
            until_s = np.array([taken[k - 1] if k else -inf])
            readers.observe(view._replace(readers=lambda until_s=until_s: until_s))
        fine = np.arange(0, times[-1], 1e-3)
        begins = np.clip((fine[:, None] - taken) * rate, 0, 1).sum(axis=1) / rate
        area = float(np.maximum(fine - 1.0 - begins, 0).sum() * 1e-3)
        assert readers.delay_s2.item() == pytest.approx(area, rel=0.02)


def test_who_leaves_is_forgotten() -> None:
    readers = lateness(view_of(ON, 6.0, [10, 10], [60, 0], [GPU, NONE], ids=[1, 7]),
                       view_of(ON, 5.0, [10, 10, 10], [50, 50, 50], [GPU] * 3, ids=[0, 1, 2]))
    assert len(readers.late_s) == len(readers._id) == 2
