"""Metrics of a whole run: pure functions of `sim.records.Records`, so they cannot tell which engine ran."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np

from policies.api import Bools, Floats
from traces import Trace
from traces.pace import mean_tps

from .gaps import gaps
from .paced_reading import read_at_paces
from .percentiles import ALWAYS, p_word
from .pooled import Pooled
from .qoe import EXPECTED_TTFT_S
from .reading import Reading, read
from .records import Fate, Records

PATIENCE_S = 1.3                #: TTFT beyond which engagement suffers (TokenFlow, section 2)


@dataclass(frozen=True, eq=False)
class PerRequest:
    """One element per request of the trace, shape (n,); NaN where it never came to that."""

    ttft_s: Floats              #: from sending to the first token
    tpot_s: Floats              #: (last - first) / (tokens - 1); NaN for one token
    e2e_s: Floats               #: from sending to the last token
    reading: Reading            #: NaN for requests that nobody reads


def per_request(trace: Trace, rates: Floats, records: Records) -> PerRequest:
    """`rates`: tokens per second that each reader takes, at first, shape (n,); the trace knows what changes later.

    QoE expects the first token within the trace's ttft_slo_s.
    """
    varies = trace.rate_changes.astype(np.bool_)
    expected_ttft_s = np.where(np.isnan(trace.ttft_slo_s), EXPECTED_TTFT_S, trace.ttft_slo_s)
    several = np.where(records.tokens > 1, records.tokens - 1, nan)
    reading = read(records, rates, trace.output_tokens, (trace.reader & ~varies).nonzero()[0], expected_ttft_s)
    read_at_paces(reading, records, rates, trace.rate_changes, trace.output_tokens, (trace.reader & varies).nonzero()[0],
                  expected_ttft_s)
    return PerRequest(
        ttft_s=records.first_s - records.sent_s,
        tpot_s=(records.last_s - records.first_s) / several,
        e2e_s=records.last_s - records.sent_s,
        reading=reading,
    )


def serving_summary(trace: Trace, rates: Floats, records: Records, requests: PerRequest, end_s: float,
                    percentiles: Iterable[float] = (), good: Bools | None = None) -> dict[str, Any]:
    """What clients and readers saw, flat; NaN where undefined. `percentiles`: those to report beside P99; `good`: which requests
    meet the limits of goodput, None when there are none.

    Keys that `vllm bench serve --save-result` writes have its names and meanings: totals, means and percentiles (numpy's linear
    ones) are over completed requests, in milliseconds; ITL pools all gaps of all of them; `duration` runs from the first
    arrival to the last token, or to `end_s` when requests are unfinished then. Rebuffering, QoE (of Andes) and fluency are those
    of completed requests which someone reads; the share of good requests is of all that the trace has. Effective throughput and
    QoS (TokenFlow 7.1.3, and Eq. 2 with lambda = mu = r: a second of waiting or of stalling costs r tokens; of a rate that
    changes, its mean over the answer) also count what unfinished requests got by then; their T begins with the first arrival.
    """
    done, unfinished = records.fate == Fate.COMPLETED, records.fate == Fate.UNFINISHED
    end_s = end_s if unfinished.any() else float(records.last_s[done].max())
    duration = max(end_s - float(trace.arrival_s[0]), 0.0) or nan
    completed, rejected = int(np.count_nonzero(done)), int(np.count_nonzero(records.fate == Fate.REJECTED))
    dropped, ranks = sum(trace.dropped.values()), sorted({*percentiles, ALWAYS})
    count_good = None if good is None else int(np.count_nonzero(good))
    inputs, outputs = int(trace.input_tokens[done].sum()), int(records.tokens[done].sum())
    return {
        "completed": completed,
        "failed": rejected,
        "duration": duration,
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": completed / duration,
        "request_goodput": None if count_good is None else count_good / duration,
        "output_throughput": outputs / duration,
        "total_token_throughput": (inputs + outputs) / duration,
        **_spread("ttft", ranks, Pooled.each(requests.ttft_s[done])),
        **_spread("tpot", ranks, Pooled.each(requests.tpot_s[done])),
        **_spread("itl", ranks, gaps(records, done)),
        **_spread("e2el", ranks, Pooled.each(requests.e2e_s[done])),
        "request_rate": _offered_rate(trace),
        **_delivered(trace, rates, records, requests, end_s, duration),
        **_reading(requests.reading, done & trace.reader, ranks),
        "ttft_over_1300ms_share": _ratio(int(np.count_nonzero(requests.ttft_s[done] > PATIENCE_S)), completed),
        "goodput_share": None if count_good is None else count_good / len(trace),
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
    mean_rates = mean_tps(rates, trace.rate_changes, trace.output_tokens)[reads]
    cost = float((mean_rates * (waited_s + stalled_s)).sum())
    return {
        "effective_throughput": effective / duration if reads.any() else nan,
        "mean_token_weight": _ratio(effective, int(records.tokens[reads].sum())),
        "qos": (effective - cost) / duration if reads.any() else nan,
    }


def _reading(reading: Reading, readers: Bools, ranks: list[float]) -> dict[str, float]:
    stalled_s, times, qoe = Pooled.each(reading.rebuffer_s[readers]), reading.rebuffers[readers], Pooled.each(reading.qoe[readers])
    return {
        "mean_rebuffer_s": stalled_s.mean(),
        **{f"{p_word(q)}_rebuffer_s": stalled_s.percentile(q) for q in ranks},
        "rebuffers": int(times.sum()),
        "stalled_share": _ratio(int(np.count_nonzero(times)), len(times)),
        "lost_fluency_share": _ratio(int(np.count_nonzero(reading.lost_fluency[readers])), len(times)),
        "mean_qoe": qoe.mean(),
        "p10_qoe": qoe.percentile(10),
    }


def _spread(name: str, ranks: list[float], seconds: Pooled) -> dict[str, float]:
    found = {"mean": seconds.mean(), "median": seconds.percentile(50), "std": seconds.std()}
    found |= {p_word(q): seconds.percentile(q) for q in ranks}
    return {f"{kind}_{name}_ms": value * 1000 for kind, value in found.items()}


def _offered_rate(trace: Trace) -> float | str:
    """Requests per second as they arrive; "inf" when all come at once, as vLLM writes it."""
    last_s = float(trace.arrival_s[-1])
    return float(f"{len(trace) / last_s:.12g}") if last_s else "inf"


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else nan
