"""How fast readers take text up: mixes and people, drawn apart from everything else; what a file says comes first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces import BadInput, generate, make_trace, parse_rates, with_rates
from traces.consumption import NAMED


def test_a_mix_has_its_shares() -> None:
    rates = generate(50_000, consume_rate="0.4:15,0.6:20").consume_tps
    assert set(rates.tolist()) == {15.0, 20.0}
    assert (rates == 15).mean() == pytest.approx(0.4, abs=0.01)
    assert parse_rates("--consume-rate", "0.4:15, 0.6:20").overall_tps == pytest.approx(18)


def test_one_number_is_everyone() -> None:
    assert set(generate(5, consume_rate="6.5").consume_tps.tolist()) == {6.5}


def test_shares_may_be_rounded() -> None:
    assert sum(parse_rates("--consume-rate", "0.333:5,0.333:8,0.333:12").shares) == pytest.approx(1)


@pytest.mark.parametrize(("name", "mean", "low", "high"), [("human-reading", 4.50, 3.4, 5.8), ("human-listening", 3.88, 2.5, 6.3)])
def test_people_are_as_published(name: str, mean: float, low: float, high: float) -> None:
    rates = generate(100_000, consume_rate=name, seed=1).consume_tps
    assert rates.mean() == pytest.approx(mean, rel=0.01)
    assert np.percentile(rates, [10, 90]) == pytest.approx([low, high], abs=0.2)


def test_people_of_one_class_differ_by_a_fifth() -> None:
    assert all(readers.cv == 0.2 for readers in NAMED.values())
    english = NAMED["human-listening"].sample(np.random.default_rng(0), 100_000)[0]
    english = english[english < 4.2]            # nearly all of English, little else
    assert np.log(english).std() == pytest.approx(0.2, rel=0.2)


def test_rates_have_a_stream_of_their_own() -> None:
    plain = generate(50, arrival="poisson", request_rate=3.0, input_len="normal:100:20", seed=3)
    mixed = generate(50, arrival="poisson", request_rate=3.0, input_len="normal:100:20", seed=3, consume_rate="human-reading")
    assert plain.arrival_s.tolist() == mixed.arrival_s.tolist()
    assert plain.input_tokens.tolist() == mixed.input_tokens.tolist()
    later = with_rates(plain, parse_rates("--consume-rate", "human-reading"), seed=3)
    assert later.consume_tps.tolist() == mixed.consume_tps.tolist()
    assert with_rates(plain, NAMED["human-reading"], seed=4).consume_tps.tolist() != mixed.consume_tps.tolist()


def test_what_the_trace_says_comes_first() -> None:
    trace = make_trace(range(4), 1, 1, consume_tps=[np.nan, 7, np.nan, 9], source="file.csv")
    filled = with_rates(trace, parse_rates("--consume-rate", "0.5:15,0.5:20"), seed=2)
    assert filled.consume_tps[[1, 3]].tolist() == [7, 9]
    assert set(filled.consume_tps[[0, 2]].tolist()) <= {15, 20}
    assert filled.source == "file.csv --consume-rate 0.5:15,0.5:20 --seed 2"
    with pytest.raises(ValueError, match="read-only"):
        filled.consume_tps[0] = 1


def test_a_shorter_trace_has_the_same_first_readers() -> None:
    trace, readers = make_trace(range(9), 1, 1), NAMED["human-reading"]
    few, all_of_them = with_rates(trace.window(limit=4), readers), with_rates(trace, readers)
    assert few.consume_tps.tolist() == all_of_them.consume_tps[:4].tolist()


@pytest.mark.parametrize(("spec", "phrase"), [
    ("", "'' is not a number; known are a number, SHARE:RATE"),
    ("fast", "human-reading, human-listening"),
    ("0", "'0' must be above 0"),
    ("-3", "'-3' must be above 0"),
    ("nan", "is NaN"),
    ("0.4:15,0.5:20", "shares must add up to 1, not 0.9"),
    ("0.4:15,0.6", "must be written SHARE:RATE,SHARE:RATE"),
    ("1:2:3", "must be written SHARE:RATE,SHARE:RATE"),
    ("0:15,1:20", "'0' must be above 0"),
    ("0.5:0,0.5:20", "'0' must be above 0"),
    ("0.5:15,0.5:quick", "'quick' is not a number"),
    ("0.5:15,,0.5:20", "must be written"),
])
def test_impossible_rates_are_named(spec: str, phrase: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_rates("--consume-rate", spec)
    assert caught.value.what == "--consume-rate"
    assert phrase in str(caught.value)


@given(spec=st.text("0123456789.:,e-nai ", max_size=20) | st.text(max_size=10))
def test_any_rates_are_a_law_or_are_refused(spec: str) -> None:
    try:
        rates = parse_rates("--consume-rate", spec).sample(np.random.default_rng(0), 10)[0]
    except BadInput as error:
        message = str(error)
    else:
        assert (rates > 0).all()
        return
    assert message.splitlines() == [message]
