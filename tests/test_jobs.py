"""Several at a time: each once, whatever becomes of the process that makes it."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from sim.jobs import KILLED, each_done
from traces import BadInput


def squared(number: int) -> int:
    if number < 0:
        os.kill(os.getpid(), 9)
    return number * number


@pytest.mark.parametrize("jobs", [2, 3])
def test_whoever_kills_its_process_takes_nobody_with_it(jobs: int) -> None:
    given = [1, -1, *range(2, 12), -2]
    made = list(each_done(squared, given, jobs, lambda number: 0))
    assert Counter(number for number, _ in made) == Counter(given)
    assert dict(made) == {number: number * number if number > 0 else 0 for number in given}


def test_nobody_says_what_to_make_of_it() -> None:
    with pytest.raises(BadInput, match=KILLED):
        list(each_done(squared, [1, 2, -3], 2))


def test_nothing_to_do() -> None:
    assert list(each_done(squared, [], 2)) == []
