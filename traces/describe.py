"""What a trace is like: how fast and how unevenly requests come, how long they are. Plain numbers, None where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np

from traces.pace import changing, mean_tps
from traces.trace import Floats, Ints, Trace

WINDOW_S = 300.0                #: of the CV that is given per window
LEAST_GAPS = 10                 #: in a window, for its CV to mean something
BINS_S = (1, 10, 60)            #: of peak over mean
LEAST_BINS = 3                  #: of one width, whole ones, for that to mean something
BUSIEST_S, GRID_S = 1200, 10    #: length of the busiest stretch, and the multiples of which it begins at one
PERCENTILES = (5, 25, 50, 75, 90, 95, 99)

Numbers = dict[str, Any]


def describe(trace: Trace) -> Numbers:
    """Everything measured; times in seconds, rates per second, lengths in tokens."""
    at_s = trace.arrival_s
    gaps_s, span_s = np.diff(at_s), float(at_s[-1] - at_s[0])
    return {
        "trace": trace.source,
        "requests": len(trace),
        "dropped": dict(trace.dropped),
        "span_s": span_s,
        "rate_per_s": len(gaps_s) / span_s if span_s else None,
        "tied_gap_share": float((gaps_s == 0).mean()) if len(gaps_s) else None,
        "gap_cv": _cv(gaps_s),
        "gap_cv_per_300s": _cv_per_window(at_s),
        "peak_to_mean": {f"{width_s}s": _peak_to_mean(at_s, width_s) for width_s in BINS_S},
        "busiest_1200s": _busiest(trace),
        "input_tokens": _lengths(trace.input_tokens),
        "output_tokens": _lengths(trace.output_tokens),
        "input_output_spearman": spearman(trace.input_tokens, trace.output_tokens),
        "consume_tps": _rates(trace),
    }


def _cv(values: Floats) -> float | None:
    mean = values.mean() if len(values) > 1 else 0.0
    return float(values.std() / mean) if mean > 0 else None


def _cv_per_window(at_s: Floats) -> Numbers | None:
    """CV of the gaps in each window that is not nearly empty, from the first request on."""
    window = (at_s - at_s[0]) // WINDOW_S
    edges = np.flatnonzero(np.diff(window)) + 1
    groups = [group for group in np.split(at_s, edges) if len(group) > LEAST_GAPS]
    found = [cv for group in groups if (cv := _cv(np.diff(group))) is not None]
    if not found:
        return None
    return {"median": float(np.median(found)), "least": min(found), "most": max(found), "windows": len(found)}


def _peak_to_mean(at_s: Floats, width_s: float) -> float | None:
    """Requests in the fullest bin over those in a mean one; of the span only whole bins count."""
    bin = (at_s - at_s[0]) // width_s
    whole = bin[-1]
    if whole < LEAST_BINS:
        return None
    inside = bin[bin < whole]
    fullest = np.unique(inside, return_counts=True)[1].max()
    return float(fullest * whole / len(inside))


def _busiest(trace: Trace) -> Numbers | None:
    """The stretch with the most requests; None when the trace is no longer than that."""
    at_s = trace.arrival_s
    if at_s[-1] - at_s[0] <= BUSIEST_S:
        return None
    starts_s = np.unique(at_s // GRID_S) * GRID_S
    first, stop = np.searchsorted(at_s, starts_s), np.searchsorted(at_s, starts_s + BUSIEST_S)
    most = int(np.argmax(stop - first))
    inside = slice(int(first[most]), int(stop[most]))
    requests = inside.stop - inside.start
    return {
        "start_s": float(starts_s[most]),
        "end_s": float(starts_s[most] + BUSIEST_S),
        "requests": requests,
        "rate_per_s": requests / BUSIEST_S,
        "input_tokens_per_s": float(trace.input_tokens[inside].sum() / BUSIEST_S),
        "output_tokens_per_s": float(trace.output_tokens[inside].sum() / BUSIEST_S),
    }


def _lengths(tokens: Ints) -> Numbers:
    levels = {f"p{level}": float(value) for level, value in zip(PERCENTILES, np.percentile(tokens, PERCENTILES))}
    return levels | {"max": int(tokens.max()), "mean": float(tokens.mean())}


def _rates(trace: Trace) -> Numbers | None:
    """Readers' rates that the trace gives, each the mean over its answer; changing: how many are not the same all along."""
    tps = mean_tps(trace.consume_tps, trace.rate_changes, trace.output_tokens)
    given = tps[~np.isnan(tps)]
    if not len(given):
        return None
    low, middle, high = np.percentile(given, [10, 50, 90])
    varying = changing(trace.rate_changes)
    first_change = np.array([trace.rate_changes[i][0][0] for i in varying.tolist()])
    return {"given": len(given), "changing": int(np.count_nonzero(first_change < trace.output_tokens[varying])),
            "mean": float(given.mean()), "p10": float(low), "p50": float(middle), "p90": float(high)}


def spearman(one: Ints, other: Ints) -> float | None:
    """Rank correlation; None when either never changes."""
    ranks = np.column_stack([_ranks(one), _ranks(other)])
    deviations = ranks - ranks.mean(axis=0)
    scale = float(np.sqrt((deviations**2).sum(axis=0).prod()))
    return float((deviations[:, 0] * deviations[:, 1]).sum() / scale) if scale else None


def _ranks(values: Ints) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(size) - (size - 1) / 2)[group]
    return ranks
