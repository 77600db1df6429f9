"""Gaps between tokens, and their statistics, against lists of every single gap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.gaps import gaps
from sim.pooled import Pooled
from sim.reading import read
from sim.records import Fate, Records


@st.composite
def clocks(draw: st.DrawFn) -> Records:
    """Requests whose segments lie anywhere on one clock: some begin with a prefill's token, some are empty."""
    steps = draw(st.integers(0, 40))
    clock = np.cumsum(draw(st.lists(st.integers(1, 64), min_size=steps, max_size=steps))) / 64.0
    n = draw(st.integers(1, 6))
    records = Records.blank(n)
    segments = []
    for id in range(n):
        cuts = sorted(draw(st.lists(st.integers(0, steps), max_size=6)))
        for start, stop in zip(cuts[::2], cuts[1::2]):
            before = clock[start - 1] if start else 0.0
            prefill = draw(st.booleans())
            segments.append((id, before + 1 / 128 if prefill else np.nan, start, stop))
    records.clock_s = clock.astype(float)
    columns = list(zip(*segments)) or [(), (), (), ()]
    records.segment_id, records.segment_start, records.segment_stop = (np.array(columns[i], np.int64) for i in (0, 2, 3))
    records.segment_token_s = np.array(columns[1], np.float64)
    records.fate[:] = draw(st.lists(st.sampled_from([Fate.COMPLETED, Fate.UNFINISHED]), min_size=n, max_size=n))
    return records


@given(clocks())
def test_gaps_are_those_of_every_token(records: Records) -> None:
    completed = records.fate == Fate.COMPLETED
    listed = np.concatenate([np.empty(0), *(np.diff(records.token_times_s(id)) for id in completed.nonzero()[0])])
    pooled = gaps(records, completed)
    assert pooled.n == len(listed)
    if not len(listed):
        assert np.isnan([pooled.mean(), pooled.std(), pooled.percentile(50)]).all()
        return
    assert np.repeat(pooled.values, pooled.counts).tolist() == np.sort(listed).tolist()
    assert pooled.mean() == pytest.approx(listed.mean(), rel=1e-12)
    assert pooled.std() == pytest.approx(listed.std(), rel=1e-9, abs=1e-9)
    for q in (0, 1, 37.5, 50, 90, 99, 100):
        assert pooled.percentile(q) == np.percentile(listed, q), q


@given(clocks())
def test_segments_and_lists_of_token_times_read_alike(records: Records) -> None:
    times = [records.token_times_s(id) for id in range(len(records.tokens))]
    records.tokens[:] = [len(one) for one in times]
    records.first_s[:] = [one[0] if len(one) else np.nan for one in times]
    some, rates, lengths = records.tokens > 0, np.full(len(times), 3.0), np.full(len(times), 50)
    if some.any():
        listed = Records.of_token_times([0.0] * int(some.sum()), [one for one in times if len(one)])
        cut = read(records, rates, lengths, np.arange(len(times)))
        whole = read(listed, rates[some], lengths[some], np.arange(int(some.sum())))
        assert cut.rebuffer_s[some].tolist() == whole.rebuffer_s.tolist()
        assert cut.rebuffers[some].tolist() == whole.rebuffers.tolist()
        assert cut.effective_tokens[some].tolist() == whole.effective_tokens.tolist()


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 5)), min_size=1, max_size=30), st.floats(0, 100))
def test_percentiles_are_numpys_linear_ones(pairs: list[tuple[float, int]], q: float) -> None:
    values, counts = np.array([value for value, _ in pairs]), np.array([count for _, count in pairs])
    pooled = Pooled.of(values, counts)
    listed = np.repeat(values, counts)
    if len(listed):
        assert pooled.percentile(q) == np.percentile(listed, q)
    else:
        assert np.isnan(pooled.percentile(q))


def test_a_real_engines_token_times_serve_as_well() -> None:
    """Token times as lists, in no common clock: the same figures from the same functions."""
    rng = np.random.default_rng(3)
    times = [np.sort(rng.uniform(0, 9, n)) for n in (5, 1, 40)]
    records = Records.of_token_times([0.0, 0.0, 0.0], times)
    listed = np.concatenate([np.diff(one) for one in times])
    assert gaps(records, np.ones(3, np.bool_)).percentile(99) == np.percentile(listed, 99)
    assert records.first_s.tolist() == [one[0] for one in times]
    assert records.last_s.tolist() == [one[-1] for one in times]
    assert [records.token_times_s(id).tolist() for id in range(3)] == [one.tolist() for one in times]
