"""Readers whose rate changes along the answer: how a pace is written, drawn, kept in a trace and in a file, and described."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.cli import main
from traces import BadInput, Trace, generate, load_trace, make_trace, parse_rates, with_rates, write_trace
from traces.consumption import Readers
from traces.describe import describe
from traces.pace import Pace, mean_tps, parse, reading_s

SLOWER = "30/10@200/20@600"

tps = st.floats(min_value=1e-9, max_value=2**53)


@st.composite
def paces(draw: st.DrawFn) -> Pace:
    tokens = sorted(draw(st.lists(st.integers(1, 2**53), min_size=1, max_size=5, unique=True)))
    return Pace(draw(tps), tuple((token, draw(tps)) for token in tokens))


def test_a_pace_as_it_is_written() -> None:
    assert parse(SLOWER) == Pace(30.0, ((200, 10.0), (600, 20.0)))
    assert parse(" 12.5 / 3 @ 7 ") == Pace(12.5, ((7, 3.0),))
    assert parse("20") == 20.0
    assert isinstance(parse("20"), float)


@given(paces())
def test_a_pace_reads_back_bit_for_bit(pace: Pace) -> None:
    assert parse(str(pace)) == pace


@pytest.mark.parametrize(("text", "phrase"), [
    ("", "is not a number"),
    ("/10@200", "'' is not a number"),
    ("30/", "'' must be written RATE@TOKEN"),
    ("30/10", "'10' must be written RATE@TOKEN"),
    ("30@5", "is not a number"),
    ("30/10@", "token '' is not a number"),
    ("30/10@0", "token '0' must be at least 1"),
    ("30/10@-4", "token '-4' is negative"),
    ("30/10@2.5", "token '2.5' is not a whole number"),
    ("30/10@1e17", "token '1e17' is larger than 2**53"),
    ("30/10@200@300", "token '200@300' is not a number"),
    ("30/0@5", "'0' must be above 0"),
    ("0/10@5", "'0' must be above 0"),
    ("30/-2@5", "'-2' must be above 0"),
    ("30/nan@5", "'nan' is NaN"),
    ("30/10@200/20@200", "tokens must ascend, 200 follows 200"),
    ("30/10@200/20@100", "tokens must ascend, 100 follows 200"),
    ("30 10@200", "is not a number"),
    ("30/ten@200", "'ten' is not a number"),
])
def test_bad_paces_are_named_wherever_they_stand(text: str, phrase: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is ") as alone:
        parse(text)
    assert phrase in str(alone.value)
    for spec in (text, f"0.5:20,0.5:{text}"):
        with pytest.raises(BadInput) as drawn:
            parse_rates("--consume-rate", spec)
        assert drawn.value.what == "--consume-rate"
        assert phrase in str(drawn.value)
    if text:        # an empty cell is one without a rate
        path = tmp_path / "bad.csv"
        path.write_text(f"arrival_s,input_tokens,output_tokens,consume_tps\n0,1,1,20\n1,1,1,{text}\n")
        with pytest.raises(BadInput, match="line 3: column consume_tps: ") as read:
            load_trace(path)
        assert phrase in str(read.value)


@given(st.text("0123456789./@e-na ", max_size=20))
def test_any_text_is_a_pace_or_is_refused(text: str) -> None:
    try:
        pace = parse(text)
    except ValueError as error:
        message = str(error)
    else:
        assert parse(str(pace)) == pace
        return
    assert message.splitlines() == [message]


@pytest.mark.parametrize("pace", [
    (0.0, ((5, 1.0),)), (1.0, ((5, 0.0),)), (1.0, ((0, 1.0),)), (1.0, ((5, 1.0), (5, 2.0))), (1.0, ()),
])
def test_an_impossible_pace_cannot_be_made(pace: tuple[float, tuple[tuple[int, float], ...]]) -> None:
    with pytest.raises(ValueError, match="must "):
        Pace(*pace)


# ---- what a pace means

@given(st.integers(1, 60), st.dictionaries(st.integers(1, 80), st.integers(1, 40), min_size=1, max_size=6))
def test_a_token_takes_what_its_segment_says(tokens: int, changes: dict[int, int]) -> None:
    pace = Pace(7.0, tuple((token, float(rate)) for token, rate in sorted(changes.items())))
    rate = [changes[max(begun)] if (begun := [first for first in changes if first <= token]) else 7 for token in range(tokens)]
    due = [sum((Fraction(1, r) for r in rate[:token]), Fraction(0)) for token in range(tokens)]
    assert reading_s(pace.tps, pace.changes, tokens) == pytest.approx([float(one) for one in due], rel=1e-14)
    trace = make_trace([0, 0], 1, tokens, consume_tps=[pace, 3.0])
    mean = mean_tps(trace.consume_tps, trace.rate_changes, trace.output_tokens)
    assert mean.tolist() == pytest.approx([float(tokens / sum(Fraction(1, r) for r in rate)), 3.0], rel=1e-14)


def test_a_segment_that_takes_almost_for_ever_moves_no_token_before_it() -> None:
    assert len(reading_s(20.0, ((100, 1e-18),), 0)) == 0
    due_s = reading_s(20.0, ((100, 1e-18),), 103)
    assert due_s[:100] == pytest.approx(np.arange(100) / 20)
    assert due_s[100:].tolist() == pytest.approx([5, 1e18, 2e18])


# ---- in a trace

def test_a_trace_keeps_first_rate_and_changes_apart() -> None:
    trace = make_trace([2, 0, 1], 1, 1, consume_tps=[SLOWER, 15, np.nan])
    np.testing.assert_array_equal(trace.consume_tps, [15, np.nan, 30])
    assert trace.rate_changes.tolist() == [(), (), ((200, 10.0), (600, 20.0))]
    assert make_trace([0, 1], 1, 1, consume_tps=SLOWER).rate_changes.tolist() == [((200, 10.0), (600, 20.0))] * 2
    assert make_trace([0, 1], 1, 1).rate_changes.tolist() == [(), ()]
    with pytest.raises(ValueError, match="read-only"):
        trace.rate_changes[0] = ()


@pytest.mark.parametrize(("value", "phrase"), [
    ([20, "30/10"], "consume_tps[1]: '30/10'"), ("fast", "consume_tps: 'fast' is not a number"),
    ([None, 3], "must be a number or a pace"),
])
def test_a_trace_names_a_bad_pace(value: object, phrase: str) -> None:
    with pytest.raises(BadInput) as caught:
        make_trace([0, 1], 1, 1, consume_tps=value)      # type: ignore[arg-type]
    assert phrase in str(caught.value)


def test_windows_and_jitter_keep_paces() -> None:
    trace = make_trace([0, 1, 1, 3], 1, 1, consume_tps=[5, SLOWER, 7, "9/8@7"])
    assert trace.window(1, limit=2).rate_changes.tolist() == trace.rate_changes[1:3].tolist()
    assert trace.jitter_ties(1.0).rate_changes.tolist() == trace.rate_changes.tolist()


@given(given=st.lists(paces() | tps | st.just(float("nan")), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_reads_back(tmp_path: Path, given: list[Pace | float]) -> None:
    trace = make_trace(np.arange(len(given)), 1, 1, consume_tps=given)
    write_trace(trace, tmp_path / "trace.csv")
    again = load_trace(tmp_path / "trace.csv")
    np.testing.assert_array_equal(again.consume_tps, trace.consume_tps)
    assert again.rate_changes.tolist() == trace.rate_changes.tolist()


# ---- drawn

def of(trace: Trace) -> set[tuple[float, object]]:
    return {*zip(trace.consume_tps.tolist(), trace.rate_changes.tolist())}


def test_a_mix_of_paces() -> None:
    trace = generate(20_000, consume_rate="0.4:15,0.6:30/10@200")
    assert of(trace) == {(15.0, ()), (30.0, ((200, 10.0),))}
    assert (trace.consume_tps == 15).mean() == pytest.approx(0.4, abs=0.01)
    assert of(generate(3, consume_rate=SLOWER)) == {(30.0, ((200, 10.0), (600, 20.0)))}
    assert parse_rates("--consume-rate", "0.4:15,0.6:30/10@200").overall_tps == pytest.approx(24), "at their first tokens"


def test_a_pace_moves_no_other_reader() -> None:
    plain, mixed = generate(50, consume_rate="0.4:15,0.6:30", seed=3), generate(50, consume_rate="0.4:15,0.6:30/10@200", seed=3)
    assert plain.consume_tps.tolist() == mixed.consume_tps.tolist()


def test_what_the_trace_says_comes_first() -> None:
    trace = make_trace(range(4), 1, 1, consume_tps=[np.nan, SLOWER, 8, np.nan])
    filled = with_rates(trace, parse_rates("--consume-rate", "9/3@4"))
    assert filled.consume_tps.tolist() == [9, 30, 8, 9]
    assert filled.rate_changes.tolist() == [((4, 3.0),), ((200, 10.0), (600, 20.0)), (), ((4, 3.0),)]
    with pytest.raises(ValueError, match="read-only"):
        filled.rate_changes[0] = ()


def test_spread_of_a_class_multiplies_every_segment() -> None:
    readers = Readers("people", (0.5, 0.5), (4.0, 6.0), 0.2, ((), ((10, 3.0), (20, 12.0))))
    rates, changes = readers.sample(np.random.default_rng(0), 1000)
    varying = [i for i, change in enumerate(changes) if change]
    assert 400 < len(varying) < 600
    assert len({rates[i] for i in varying}) == len(varying)
    for i in varying:
        assert [token for token, _ in changes[i]] == [10, 20]
        assert [rate / rates[i] for _, rate in changes[i]] == pytest.approx([0.5, 2.0])


# ---- at the command line

def test_convert_keeps_paces_and_describe_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("arrival_s,input_tokens,output_tokens,consume_tps\n0,5,400,30/10@200\n1,5,400,\n2,5,40,15\n")
    assert main(["trace", "convert", "in.csv", "out.csv.gz", "--consume-rate", "8/4@3"]) == 0
    trace = load_trace("out.csv.gz")
    assert trace.consume_tps.tolist() == [30, 8, 15]
    assert trace.rate_changes.tolist() == [((200, 10.0),), ((3, 4.0),), ()]
    assert main(["trace", "generate", "--num-prompts", "3", "--consume-rate", "8/4@3", "-o", "drawn.csv"]) == 0
    assert load_trace("drawn.csv").rate_changes.tolist() == [((3, 4.0),)] * 3
    capsys.readouterr()
    assert main(["trace", "describe", "in.csv"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "given for 2: mean 15.0 tokens/s, P10 15.0, P50 15.0, P90 15.0; 1 of them change" in said


def test_describe_takes_the_mean_over_each_answer() -> None:
    said = describe(make_trace(range(3), 1, [400, 400, 100], consume_tps=["30/10@200", 15, "30/10@200"]))["consume_tps"]
    assert said["given"] == 3
    assert said["changing"] == 1, "the third answer ends before its reader changes"
    assert said["mean"] == pytest.approx((15 + 15 + 30) / 3)
