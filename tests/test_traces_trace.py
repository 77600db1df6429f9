"""A Trace holds checked, ordered, read-only arrays; `window` cuts and stretches it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from itertools import pairwise
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces import BadInput, Trace, make_trace


def arrays(trace: Trace) -> dict[str, np.ndarray[Any, Any]]:
    return {f.name: getattr(trace, f.name) for f in fields(trace) if f.name not in ("source", "dropped")}


def test_scalars_stand_for_every_request() -> None:
    trace = make_trace([0.0, 1.0], 10, [5, 6], consume_tps=20, priority=3, ttft_slo_s=1.3, reader=False, model="m", klass="chat")
    assert trace.input_tokens.tolist() == [10, 10]
    assert trace.consume_tps.tolist() == [20, 20]
    assert trace.priority.tolist() == [3, 3]
    assert trace.ttft_slo_s.tolist() == [1.3, 1.3]
    assert trace.reader.tolist() == [False, False]
    assert trace.model.tolist() == ["m", "m"]
    assert trace.session.tolist() == ["", ""]
    assert trace.klass.tolist() == ["chat", "chat"]


def test_scalars_alone_are_one_request() -> None:
    assert len(make_trace(0, 1, 1)) == 1


def test_dtypes_whatever_is_given() -> None:
    trace = make_trace([0, 1], np.array([1, 2], dtype=np.uint8), [3.0, 4.0], model=np.array(["a", "b"]))
    kinds = {name: array.dtype for name, array in arrays(trace).items()}
    floats = {"arrival_s", "consume_tps", "priority", "ttft_slo_s", "tpot_slo_s"}
    assert {name for name, dtype in kinds.items() if dtype == np.float64} == floats
    assert kinds["input_tokens"] == kinds["output_tokens"] == np.int64
    assert kinds["reader"] == np.bool_
    assert {kinds[name].kind for name in ("model", "session", "klass")} == {"O"}
    assert all(isinstance(name, str) for name in trace.model)


def test_arrivals_are_sorted_and_ties_keep_their_order() -> None:
    trace = make_trace([2, 1, 2, 1], [1, 2, 3, 4], 1, model=["a", "b", "c", "d"])
    assert trace.arrival_s.tolist() == [1, 1, 2, 2]
    assert trace.input_tokens.tolist() == [2, 4, 1, 3]
    assert trace.model.tolist() == ["b", "d", "a", "c"]


def test_arrays_are_read_only_copies() -> None:
    given_s = np.array([0.0, 1.0])
    trace = make_trace(given_s, 1, 1)
    given_s[0] = 9
    assert trace.arrival_s[0] == 0
    for cut in (trace, trace.window(0, 5), trace.window()):
        for array in arrays(cut).values():
            with pytest.raises(ValueError, match="read-only"):
                array[0] = array[0]


def test_nan_is_not_given() -> None:
    trace = make_trace([0, 1], 1, 1, consume_tps=[nan, 5], priority=[nan, 2], ttft_slo_s=nan)
    np.testing.assert_array_equal(trace.consume_tps, [nan, 5])
    assert trace.priority.tolist() == [1, 2]
    assert np.isnan(trace.ttft_slo_s).all()


def test_names_lose_surrounding_blanks() -> None:
    assert make_trace(0, 1, 1, model=[" a b "]).model.tolist() == ["a b"]


@pytest.mark.parametrize(
    ("wrong", "phrase"),
    [
        ({"arrival_s": [0, -1]}, "arrival_s[1] is -1: it must be zero or above"),
        ({"arrival_s": [0, nan]}, "arrival_s[1] is nan"),
        ({"arrival_s": inf}, "arrival_s is inf"),
        ({"arrival_s": [0, 1e300]}, "at most 2**53"),
        ({"arrival_s": ["0", "1"]}, "arrival_s must be numbers"),
        ({"arrival_s": [0, None]}, "arrival_s must be numbers"),
        ({"arrival_s": [[0, 1]]}, "one value or one sequence"),
        ({"arrival_s": [[0], [1, 2]]}, "one value or one sequence"),
        ({"arrival_s": []}, "there are no requests"),
        ({"input_tokens": [1, 0]}, "input_tokens[1] is 0: it must be above 0"),
        ({"input_tokens": [1.5, 1]}, "input_tokens[0] is 1.5: it must be a whole number"),
        ({"input_tokens": True}, "input_tokens must be numbers"),
        ({"output_tokens": -4}, "output_tokens is -4"),
        ({"output_tokens": [2**53 + 2, 1]}, "output_tokens[0]"),
        ({"output_tokens": [2**80, 1]}, "output_tokens must be numbers"),
        ({"consume_tps": 0.0}, "consume_tps is 0.0: it must be above 0"),
        ({"priority": [1, -1]}, "priority[1]"),
        ({"ttft_slo_s": inf}, "ttft_slo_s is inf"),
        ({"tpot_slo_s": "fast"}, "tpot_slo_s must be numbers"),
        ({"reader": [0, 1]}, "reader must be True or False, got"),
        ({"model": 5}, "model: 5 is not text"),
        ({"model": [None, "a"]}, "model: None is not text"),
        ({"session": "a\nb"}, "session: 'a\\nb' holds a control character"),
        ({"klass": "\ud800"}, "holds a control character"),
        ({"input_tokens": [1, 2, 3]}, "lengths differ: arrival_s 2, input_tokens 3"),
        ({"input_tokens": [1]}, "lengths differ: arrival_s 2, input_tokens 1"),
    ],
)
def test_bad_values_are_named(wrong: dict[str, Any], phrase: str) -> None:
    with pytest.raises(BadInput) as caught:
        make_trace(**{"arrival_s": [0, 1], "input_tokens": 1, "output_tokens": 1, "source": "here", **wrong})
    assert str(caught.value).startswith("trace: here: ")
    assert phrase in str(caught.value)


TEN = make_trace(np.arange(10) + 0.5, np.arange(1, 11), 1, source="ten", dropped={"zero output tokens": 2})


def test_a_window_is_half_open_and_starts_its_own_clock() -> None:
    cut = TEN.window(2.5, 5.5)
    assert cut.arrival_s.tolist() == [0, 1, 2]
    assert cut.input_tokens.tolist() == [3, 4, 5]
    assert cut.source == "ten --start 2.5 --end 5.5"
    assert cut.dropped == TEN.dropped


def test_without_a_start_the_clock_stays() -> None:
    assert TEN.window(end_s=2).arrival_s.tolist() == [0.5, 1.5]
    assert TEN.window(limit=2).arrival_s.tolist() == [0.5, 1.5]


def test_time_scale_acts_after_the_cut() -> None:
    cut = TEN.window(2, 5, time_scale=2.0)
    assert cut.arrival_s.tolist() == [1, 3, 5]
    assert cut.source == "ten --start 2 --end 5 --time-scale 2"


def test_limit_takes_the_first_of_the_window() -> None:
    assert TEN.window(4, limit=2).input_tokens.tolist() == [5, 6]
    assert len(TEN.window(limit=10**6)) == 10


def test_a_whole_window_changes_nothing() -> None:
    cut = TEN.window()
    assert cut.source == "ten"
    for name, array in arrays(cut).items():
        np.testing.assert_array_equal(array, getattr(TEN, name))


@pytest.mark.parametrize(
    ("wrong", "option", "phrase"),
    [
        ({"start_s": -1}, "--start", "from 0"),
        ({"start_s": nan}, "--start", "from 0"),
        ({"start_s": "1"}, "--start", "a number"),
        ({"end_s": 0}, "--end", "above 0"),
        ({"end_s": inf}, "--end", "at most 2**53"),
        ({"start_s": 5, "end_s": 5}, "--end", "must be after --start, 5"),
        ({"start_s": 5, "end_s": 4}, "--end", "must be after --start, 5"),
        ({"limit": 0}, "--limit", "from 1"),
        ({"limit": 2.0}, "--limit", "whole number"),
        ({"time_scale": 0}, "--time-scale", "above 0"),
        ({"time_scale": nan}, "--time-scale", "above 0"),
        ({"time_scale": 1e15}, "--time-scale", "beyond 2**53 s"),
        ({"start_s": 10}, "--start", "no request arrives in [10, inf) s: ten runs from 0.5 to 9.5 s"),
        ({"end_s": 0.5}, "--end", "no request arrives in [0, 0.5) s"),
    ],
)
def test_an_impossible_window_names_the_option(wrong: dict[str, Any], option: str, phrase: str) -> None:
    with pytest.raises(BadInput) as caught:
        TEN.window(**wrong)
    assert caught.value.what == option
    assert phrase in str(caught.value)


@given(cuts=st.lists(st.floats(0.01, 20), max_size=5, unique=True))
def test_adjacent_windows_part_the_trace(cuts: list[float]) -> None:
    edges = [0.0, *sorted(cuts), 100.0]
    seen: list[int] = []
    for start, end in pairwise(edges):
        with suppress(BadInput):  # an empty window
            seen += TEN.window(start, end).input_tokens.tolist()
    assert seen == TEN.input_tokens.tolist()
