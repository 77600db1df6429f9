"""Metrics: pure functions of `sim.records.Records`, so they cannot tell which engine ran.

The reader takes up token j at c_j = max(t_j, c_(j-1) + 1/r). With x_j = t_j - j/r and M_j the largest x so far,
c_j = M_j + j/r: a cumulative maximum says everything. The stall that token j ends is M_j - M_(j-1), and just before it
ceil((M_(j-1) - x_j) r - 1) tokens lie unread, because all unread tokens are taken up 1/r apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, nan
from typing import Any

import numpy as np

from policies.api import Bools, Floats, Ints
from traces import Trace

from .records import Fate, Records

TOLERANCE = 1e-9                #: seconds that a stall, and tokens that a buffer, may be off by rounding
_BATCH_TOKENS = 1 << 15         # of a padded matrix: 256 KiB, so that the passes over it stay in a core's own cache

FULL_WEIGHT_SHARE = 0.1         #: a token counts in full while at most this share of the whole output lies unread before it,
NO_WEIGHT_SHARE = 0.2           #: and not at all from this share on (TokenFlow, section 7.1.3)

PATIENCE_S = 1.3                #: TTFT beyond which engagement suffers (TokenFlow, section 2)


# ---- one reader

@dataclass(frozen=True, eq=False)
class Reading:
    """What the readers went through, shape (n,); NaN (0 for the count) where nobody reads along or no token came."""

    rebuffer_s: Floats          #: time with an empty buffer between the first token and the last
    rebuffers: Ints             #: times the buffer ran empty
    effective_tokens: Floats    #: tokens, each with its weight


def read(records: Records, rates: Floats, lengths: Ints, who: Ints) -> Reading:
    """The reading of the requests `who` (ids).

    `rates`: tokens per second that each reader takes, `lengths`: tokens of each request's whole output, both shape (n,).
    """
    n = len(records.tokens)
    reading = Reading(np.full(n, nan), np.zeros(n, np.int64), np.full(n, nan))
    who = who[records.tokens[who] > 0]
    who = who[np.argsort(-records.tokens[who], kind="stable")]
    begin = 0
    while begin < len(who):
        longest = int(records.tokens[who[begin]])
        batch = who[begin : begin + max(_BATCH_TOKENS // longest, 1)]
        begin += len(batch)
        unread, reading.rebuffer_s[batch], reading.rebuffers[batch] = playback(_since_first(records, batch, longest), rates[batch])
        reading.effective_tokens[batch] = 1.0 + token_weights(unread, lengths[batch]).sum(axis=1)
    return reading


def playback(since_first_s: Floats, rates: Floats) -> tuple[Floats, Floats, Ints]:
    """(unread, rebuffer_s, rebuffers) of m readers.

    `since_first_s`: times since the first token, shape (m, k), rows filled up with -inf; used as scratch space.
    `unread`: tokens that lie unread just before tokens 2 to k, shape (m, k - 1), inf where there is no token.
    """
    rate = rates[:, None]
    due = since_first_s                                 # x of the module's text, in units of 1/r
    due *= rate
    due -= np.arange(due.shape[1])
    reached = np.zeros_like(due)                        # of whoever never waits: all is due when the first token is
    waits = due.max(axis=1) > 0
    reached[waits] = np.maximum.accumulate(due[waits], axis=1)
    ahead = reached[:, :-1] - due[:, 1:]
    rebuffers = np.count_nonzero(ahead < -TOLERANCE * rate, axis=1)
    rebuffer_s = reached[:, -1] / rates
    ahead -= 1.0 + TOLERANCE
    unread = np.ceil(ahead, out=ahead)
    return np.maximum(unread, 0.0, out=unread), rebuffer_s, rebuffers


def token_weights(unread: Floats, lengths: Ints) -> Floats:
    """Weight of each token in effective throughput, from what lies unread before it; shape (m, k), m `lengths`."""
    slope = 1.0 / (FULL_WEIGHT_SHARE - NO_WEIGHT_SHARE)
    weights = unread * (slope / lengths)[:, None]
    weights -= slope * NO_WEIGHT_SHARE
    return np.clip(weights, 0.0, 1.0, out=weights)


def _since_first(records: Records, ids: Ints, longest: int) -> Floats:
    """Token times since each request's first, shape (len(ids), longest), rows filled up with -inf."""
    begin, end = records.segment_id.searchsorted([ids, ids + 1])
    segments = np.repeat(end - (end - begin).cumsum(), end - begin) + np.arange((end - begin).sum())
    token_s, start, stop = records.segment_token_s[segments], records.segment_start[segments], records.segment_stop[segments]
    spoke = ~np.isnan(token_s)
    tokens = spoke + stop - start
    in_row = np.repeat(np.arange(len(ids)) * longest - (records.tokens[ids].cumsum() - records.tokens[ids]), end - begin)
    place = in_row + tokens.cumsum() - tokens               # where a segment's first token comes, rows laid end to end
    times = np.full(len(ids) * longest, -np.inf)
    times[place[spoke]] = token_s[spoke]
    clock, place = records.clock_s, place + spoke
    for to, upto, first, last in zip(place.tolist(), (place + stop - start).tolist(), start.tolist(), stop.tolist()):
        times[to:upto] = clock[first:last]
    since = times.reshape(len(ids), longest)
    since -= records.first_s[ids, None]
    return since


# ---- gaps between tokens

@dataclass(frozen=True, eq=False)
class Pooled:
    """Many values of which many are equal: each distinct one with how often it occurs."""

    values: Floats      #: ascending
    counts: Ints        #: at least 1 each
    n: int              #: their sum

    @classmethod
    def of(cls, values: Floats, counts: Ints) -> Pooled:
        values, counts = values[counts > 0], counts[counts > 0]
        order = values.argsort()
        return cls(values[order], counts[order], int(counts.sum()))

    @classmethod
    def each(cls, values: Floats) -> Pooled:
        """The values that are not NaN, once each."""
        known = np.sort(values[~np.isnan(values)])
        return cls(known, np.ones(len(known), np.int64), len(known))

    def mean(self) -> float:
        return float((self.values * self.counts).sum()) / self.n if self.n else nan

    def std(self) -> float:
        """Of the population, as `numpy.std` has it."""
        return float(np.sqrt((np.square(self.values - self.mean()) * self.counts).sum() / self.n)) if self.n else nan

    def percentile(self, q: float) -> float:
        """What `numpy.percentile` (linear) says of the values written out, to the last bit."""
        if not self.n:
            return nan
        place = (self.n - 1) * (q / 100)
        low = floor(place)
        below, above = self.values[self.counts.cumsum().searchsorted([low, min(low + 1, self.n - 1)], side="right")]
        share = place - low
        return float(below + (above - below) * share if share < 0.5 else above - (above - below) * (1 - share))


def gaps(records: Records, chosen: Bools) -> Pooled:
    """Every time between two consecutive tokens (ITL) of the chosen requests, in seconds; `chosen` has shape (n,).

    Inside a segment, gaps are differences of the clock, and as many requests have one as segments span it. The others are
    listed: from a prefill's token to the clock's first entry, and across the border between two segments.
    """
    kept = chosen[records.segment_id] & ((records.segment_stop > records.segment_start) | ~np.isnan(records.segment_token_s))
    id, token_s = records.segment_id[kept], records.segment_token_s[kept]
    start, stop = records.segment_start[kept], records.segment_stop[kept]
    ran, spoke = stop > start, ~np.isnan(token_s)
    clock, steps = records.clock_s, len(records.clock_s)

    spans = np.bincount(start[ran], minlength=steps) - np.bincount(stop[ran] - 1, minlength=steps)
    both = ran & spoke
    onward = clock[start[both]] - token_s[both]

    first_s, last_s = token_s.copy(), token_s.copy()
    first_s[~spoke], last_s[ran] = clock[start[~spoke]], clock[stop[ran] - 1]
    across = (first_s[1:] - last_s[:-1])[id[1:] == id[:-1]]
    ones = np.ones(len(onward) + len(across), np.int64)
    return Pooled.of(np.concatenate((np.diff(clock), onward, across)), np.concatenate((spans.cumsum()[: max(steps - 1, 0)], ones)))


# ---- a whole run

@dataclass(frozen=True, eq=False)
class PerRequest:
    """One element per request of the trace, shape (n,); NaN where it never came to that."""

    ttft_s: Floats              #: from sending to the first token
    tpot_s: Floats              #: (last - first) / (tokens - 1); NaN for one token
    e2e_s: Floats               #: from sending to the last token
    reading: Reading            #: NaN for requests that nobody reads


def per_request(trace: Trace, rates: Floats, records: Records) -> PerRequest:
    """`rates`: tokens per second that each reader takes, shape (n,)."""
    several = np.where(records.tokens > 1, records.tokens - 1, nan)
    return PerRequest(
        ttft_s=records.first_s - records.sent_s,
        tpot_s=(records.last_s - records.first_s) / several,
        e2e_s=records.last_s - records.sent_s,
        reading=read(records, rates, trace.output_tokens, trace.reader.nonzero()[0]),
    )


def serving_summary(trace: Trace, rates: Floats, records: Records, requests: PerRequest, end_s: float) -> dict[str, Any]:
    """What clients and readers saw, flat; NaN where undefined.

    Keys that `vllm bench serve --save-result` writes have its names and meanings: totals, means and percentiles (numpy's linear
    ones) are over completed requests, in milliseconds; ITL pools all gaps of all of them; `duration` runs from the first
    arrival to the last token, or to `end_s` when requests are unfinished then. Rebuffering is that of completed requests which
    someone reads. Effective throughput and QoS (TokenFlow 7.1.3, and Eq. 2 with lambda = mu = r: a second of waiting or of
    stalling costs r tokens) also count what unfinished requests got by then; their T begins with the first arrival.
    """
    done, unfinished = records.fate == Fate.COMPLETED, records.fate == Fate.UNFINISHED
    end_s = end_s if unfinished.any() else float(records.last_s[done].max())
    duration = max(end_s - float(trace.arrival_s[0]), 0.0) or nan
    completed, rejected = int(np.count_nonzero(done)), int(np.count_nonzero(records.fate == Fate.REJECTED))
    dropped = sum(trace.dropped.values())
    inputs, outputs = int(trace.input_tokens[done].sum()), int(records.tokens[done].sum())
    return {
        "completed": completed,
        "failed": rejected,
        "duration": duration,
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": completed / duration,
        "output_throughput": outputs / duration,
        "total_token_throughput": (inputs + outputs) / duration,
        **_spread("ttft", Pooled.each(requests.ttft_s[done])),
        **_spread("tpot", Pooled.each(requests.tpot_s[done])),
        **_spread("itl", gaps(records, done)),
        **_spread("e2el", Pooled.each(requests.e2e_s[done])),
        "request_rate": _offered_rate(trace),
        **_delivered(trace, rates, records, requests, end_s, duration),
        **_stalls(requests.reading, done & trace.reader),
        "ttft_over_1300ms_share": _ratio(int(np.count_nonzero(requests.ttft_s[done] > PATIENCE_S)), completed),
        "requests": len(trace) + dropped,
        "rejected": rejected,
        "dropped_row": dropped,
        "unfinished": int(np.count_nonzero(unfinished)),
        "generated_tokens": int(records.tokens.sum()),
    }


def _delivered(trace: Trace, rates: Floats, records: Records, requests: PerRequest, end_s: float,
               duration: float) -> dict[str, float]:
    """Effective throughput and QoS; a request still without its first token has waited until now."""
    reads = trace.reader & ~np.isnan(records.sent_s) & (records.fate != Fate.REJECTED)
    effective = float(np.nansum(requests.reading.effective_tokens[reads]))
    waited_s = np.where(np.isnan(requests.ttft_s), end_s - records.sent_s, requests.ttft_s)[reads]
    stalled_s = np.nan_to_num(requests.reading.rebuffer_s[reads])
    cost = float((rates[reads] * (waited_s + stalled_s)).sum())
    return {
        "effective_throughput": effective / duration if reads.any() else nan,
        "mean_token_weight": _ratio(effective, int(records.tokens[reads].sum())),
        "qos": (effective - cost) / duration if reads.any() else nan,
    }


def _stalls(reading: Reading, readers: Bools) -> dict[str, float]:
    stalled_s, times = Pooled.each(reading.rebuffer_s[readers]), reading.rebuffers[readers]
    return {
        "mean_rebuffer_s": stalled_s.mean(),
        "p99_rebuffer_s": stalled_s.percentile(99),
        "rebuffers": int(times.sum()),
        "stalled_share": _ratio(int(np.count_nonzero(times)), len(times)),
    }


def _spread(name: str, seconds: Pooled) -> dict[str, float]:
    found = {"mean": seconds.mean(), "median": seconds.percentile(50), "std": seconds.std(), "p99": seconds.percentile(99)}
    return {f"{kind}_{name}_ms": value * 1000 for kind, value in found.items()}


def _offered_rate(trace: Trace) -> float | str:
    """Requests per second as they arrive; "inf" when all come at once, as vLLM writes it."""
    last_s = float(trace.arrival_s[-1])
    return float(f"{len(trace) / last_s:.12g}") if last_s else "inf"


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else nan
