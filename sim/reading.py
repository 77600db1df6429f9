"""One reader: what a stream of tokens was like for whoever reads it along.

The reader takes up token j at c_j = max(t_j, c_(j-1) + 1/r). With x_j = t_j - j/r and M_j the largest x so far,
c_j = M_j + j/r: a cumulative maximum says everything. Counted from the first token, M_j is the time that the reader has sat
before an empty buffer by then, the stall that token j ends is M_j - M_(j-1), and just before it
ceil((M_(j-1) - x_j) r - 1) tokens lie unread, because all unread tokens are taken up 1/r apart. Readers whose rate changes
along the answer are in `sim.paced_reading`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import numpy as np

from policies.api import Bools, Floats, Ints

from .fluency import TOLERANCE, loses_fluency
from .qoe import EXPECTED_TTFT_S, qoe
from .records import Records

_BATCH_TOKENS = 1 << 15         # of a padded matrix: 256 KiB, so that the passes over it stay in a core's own cache

FULL_WEIGHT_SHARE = 0.1         #: a token counts in full while at most this share of the whole output lies unread before it,
NO_WEIGHT_SHARE = 0.2           #: and not at all from this share on (TokenFlow, section 7.1.3)


@dataclass(frozen=True, eq=False)
class Reading:
    """What the readers went through, shape (n,); NaN (0 for the count, False) where nobody reads along or no token came."""

    rebuffer_s: Floats          #: time with an empty buffer between the first token and the last
    rebuffers: Ints             #: times the buffer ran empty
    effective_tokens: Floats    #: tokens, each with its weight
    qoe: Floats                 #: of Andes, in (0, 1], as `sim.qoe` has it
    lost_fluency: Bools         #: whether reading was slow for a second somewhere, as `sim.fluency` has it

    @classmethod
    def blank(cls, n: int) -> Reading:
        return cls(np.full(n, nan), np.zeros(n, np.int64), np.full(n, nan), np.full(n, nan), np.zeros(n, np.bool_))


@dataclass(frozen=True, eq=False)
class Playback:
    """How m readers take up at most k tokens each: token j of whoever waits at c_j = t_1 + stalled_s[:, j] + j/r, j from 0."""

    unread: Floats              #: tokens that lie unread just before tokens 2 to k, shape (m, k - 1), inf where there is no token
    rebuffer_s: Floats          #: shape (m,)
    rebuffers: Ints             #: shape (m,)
    waits: Ints                 #: rows of those who ever wait, shape (w,)
    stalled_s: Floats           #: of those: time before an empty buffer until each token, shape (w, k); after the last: the total


def read(records: Records, rates: Floats, lengths: Ints, who: Ints, expected_ttft_s: Floats | float = EXPECTED_TTFT_S) -> Reading:
    """The reading of the requests `who` (ids).

    `rates`: tokens per second that each reader takes, `lengths`: tokens of each request's whole output, `expected_ttft_s`: when
    each reader expects the first token, counted from sending; all of shape (n,).
    """
    reading = Reading.blank(len(records.tokens))
    late_s = records.first_s - records.sent_s - expected_ttft_s
    who = who[records.tokens[who] > 0]
    who = who[np.argsort(-records.tokens[who], kind="stable")]
    begin = 0
    while begin < len(who):
        longest = int(records.tokens[who[begin]])
        batch = who[begin : begin + max(_BATCH_TOKENS // longest, 1)]
        begin += len(batch)
        played, tokens = playback(_since_first(records, batch, longest), rates[batch]), records.tokens[batch]
        waiting, waits = batch[played.waits], played.waits
        reading.rebuffer_s[batch], reading.rebuffers[batch] = played.rebuffer_s, played.rebuffers
        reading.effective_tokens[batch] = 1.0 + token_weights(played.unread, lengths[batch]).sum(axis=1)
        reading.qoe[batch] = qoe(late_s[batch], tokens, rates[batch])
        reading.qoe[waiting] = qoe(late_s[waiting], tokens[waits], rates[waiting], played.stalled_s)
        reading.lost_fluency[waiting] = loses_fluency(played.stalled_s, rates[waiting])
    return reading


def playback(since_first_s: Floats, rates: Floats) -> Playback:
    """Of m readers. `since_first_s`: times since the first token, shape (m, k), rows filled up with -inf; used as scratch space."""
    rate = rates[:, None]
    due = since_first_s                                 # x of the module's text, in units of 1/r
    due *= rate
    due -= np.arange(due.shape[1])
    waits = (due.max(axis=1) > 0).nonzero()[0]          # for the others all is due when the first token is
    reached = np.maximum.accumulate(due[waits], axis=1)
    ahead = -due[:, 1:]
    ahead[waits] += reached[:, :-1]
    rebuffers = np.count_nonzero(ahead < -TOLERANCE * rate, axis=1)
    stalled_s = reached / rate[waits]
    rebuffer_s = np.zeros(len(due))
    rebuffer_s[waits] = stalled_s[:, -1]
    ahead -= 1.0 + TOLERANCE
    unread = np.ceil(ahead, out=ahead)
    return Playback(np.maximum(unread, 0.0, out=unread), rebuffer_s, rebuffers, waits, stalled_s)


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


