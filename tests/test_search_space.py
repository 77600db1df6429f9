"""What a search may change, and within what bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies import TokenFlow
from sim.policy_choice import arguments_of, choose
from sim.study.search_space import TOKENFLOW, Parameter, Range, as_arguments, space, start
from traces import BadInput

MINE = """
from typing import Literal
from policies import Vllm

class Mine(Vllm):
    def __init__(self, size: int = 4, share: float | None = None, way: Literal["up", "down"] = "up", calm: bool = False):
        self.size = size
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    return f"{tmp_path / 'mine.py'}:Mine"


def test_tokenflows_defaults_are_possible_and_hold_its_own_values() -> None:
    found = space("tokenflow", [], [])
    assert [each.name for each in found] == list(TOKENFLOW)
    values = start("tokenflow", [], found)
    for each in found:
        assert each.holds(values[each.name]), each
        for end in each.choices or (each.range.low, each.range.high):  # type: ignore[union-attr]
            choose("tokenflow", as_arguments({each.name: each.rounded(end)}))
    kinds = {each.name: each for each in found}
    assert kinds["utility"].choices == ("marginal", "printed", "slack")
    assert kinds["rate_bound"].choices == ("true", "false")


def test_what_is_given_is_all_that_is_searched(mine: str) -> None:
    assert space("tokenflow", [], ["gamma", "interval_s=0.5:2:log", "utility=marginal,slack"]) == [
        Parameter("gamma", TOKENFLOW["gamma"]), Parameter("interval_s", Range(0.5, 2.0, True)),
        Parameter("utility", choices=("marginal", "slack"))]
    assert space(mine, [], ["size=2:9", "share=0:1", "way", "calm"]) == [
        Parameter("size", Range(2, 9), whole=True), Parameter("share", Range(0, 1)), Parameter("way", choices=("up", "down")),
        Parameter("calm", choices=("true", "false"))]
    names = [each.name for each in space("tokenflow", ["gamma=50"], [])]
    assert "gamma" not in names, "what is fixed is not searched"
    assert start("tokenflow-paper", [], space("tokenflow-paper", [], []))["utility"] == "printed"


def test_what_is_tried_is_readable_and_in_range() -> None:
    number = Parameter("gamma", Range(10.004, 1000.0))
    assert number.rounded(123.4567) == 123.0
    assert number.rounded(10.0041) == 10.004
    assert Parameter("n", Range(1, 9), whole=True).rounded(4) == 4
    assert as_arguments({"a": 0.5, "b": True, "c": None, "d": "slack", "e": 3}) == ["a=0.5", "b=true", "c=none", "d=slack", "e=3"]


def test_arguments_that_are_handed_on_to_the_next_class() -> None:
    class Other(TokenFlow):
        def __init__(self, own: int = 3, **arguments: object) -> None:
            super().__init__(**arguments)  # type: ignore[arg-type]

    names = [argument.name for argument in arguments_of(Other)]
    assert names[0] == "own"
    assert names[1:] == [argument.name for argument in arguments_of(TokenFlow)]


@pytest.mark.parametrize(("given", "line"), [
    ("gama=1:2", "no such argument; did you mean 'gamma'"), ("gamma=1", "must be NAME, NAME=LOW:HIGH"),
    ("gamma=2:1", "must begin below its end"), ("gamma=0:5:log", "begins above 0"), ("gamma=1:2:exp", "NAME=LOW:HIGH:log"),
    ("gamma=a:b", "one is not a number"), ("swap_passes=1:2.5", "one is not a whole number"), ("fill=0.5:2", "at most 1"),
    ("utility=1:2", "is no number"), ("utility=marginal,best", "must be one of"), ("swap_passes", "no range is known of it"),
    ("gamma=", "must be NAME"),
])
def test_what_cannot_be_searched(given: str, line: str) -> None:
    with pytest.raises(BadInput, match="--param") as error:
        space("tokenflow", [], [given])
    assert line in str(error.value)


def test_policies_without_known_ranges(mine: str) -> None:
    with pytest.raises(BadInput, match="give --param NAME=LOW:HIGH; its arguments: size=4, share=None"):
        space(mine, [], [])
    with pytest.raises(BadInput, match="given twice"):
        space("tokenflow", [], ["gamma", "gamma=1:2"])
    with pytest.raises(BadInput, match="given a value as well"):
        space("tokenflow", ["gamma=50"], ["gamma"])
