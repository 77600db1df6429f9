"""What the rows of the table mean, which way is better and in what unit, for who sees it for the first time, and for a search."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .metrics import PATIENCE_S

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Measure:
    """A metric of the summary, or several that differ in the percentile."""

    keys: str           #: a regular expression of its keys
    better: Better
    unit: str           #: "" of a share, or of a score


@dataclass(frozen=True)
class Term:
    name: str
    rows: tuple[str, ...]       #: how the titles begin that it explains
    means: str
    measures: tuple[Measure, ...] = ()      #: those that have a better way


_SPREAD = r"(mean|median|p[\d.]+)"

TERMS = (
    Term("TTFT", ("TTFT",),
         f"Time to the first token, from sending the request. Lower is better; above {PATIENCE_S:g} s people lose interest "
         "(TokenFlow, arXiv 2510.02758, section 2).",
         (Measure(_SPREAD + "_ttft_ms", "lower", "ms"), Measure("ttft_over_1300ms_share", "lower", ""))),
    Term("TPOT, ITL", ("TPOT", "ITL"),
         "Time per output token of each request; gaps between consecutive tokens, all of them pooled. Lower is better, but below "
         "the reader's own pace it gains nothing.",
         (Measure(_SPREAD + "_(tpot|itl)_ms", "lower", "ms"),)),
    Term("rebuffering", ("rebuffering",),
         "How long a reader sat before an empty buffer, between first token and last. Lower is better.",
         (Measure(r"(mean|p[\d.]+)_rebuffer_s", "lower", "s"),)),
    Term("readers that stalled", ("readers that stalled",),
         "Share of readers to whom that happened at all. Lower is better.",
         (Measure("stalled_share", "lower", ""),)),
    Term("fluency lost", ("fluency lost",),
         "Share of readers with a second in which nothing was left to read for more than 0.3 s. Lower is better.",
         (Measure("lost_fluency_share", "lower", ""),)),
    Term("effective tokens/s", ("effective tokens/s",),
         "Output that is read soon; what lies unread for long counts less or nothing. Higher is better, but it does not punish "
         "stalls.",
         (Measure("effective_throughput", "higher", "tokens/s"),)),
    Term("QoS", ("QoS",),
         "Effective tokens/s, less one reading second's worth of tokens for each second of waiting or stalling. Higher is better.",
         (Measure("qos", "higher", "tokens/s"),)),
    Term("QoE (Andes)", ("QoE",),
         "How closely reading keeps to what its reader expects: 1 is never late. Higher is better.",
         (Measure("(mean|p10)_qoe", "higher", ""),)),
    Term("goodput", ("goodput", "  of all requests"),
         "Requests that met every limit of --goodput. Higher is better.",
         (Measure("request_goodput", "higher", "requests/s"), Measure("goodput_share", "higher", ""))),
    Term("output tokens/s, duration", ("output tokens/s", "duration"),
         "What the engine put out, read or not, and how long it took for all. More tokens in less time are better.",
         (Measure("output_throughput", "higher", "tokens/s"), Measure("duration", "lower", "s"),)),
    Term("GPU busy", ("GPU busy",),
         "Share of that time in which the GPU computed."),
    Term("preemptions, KV to host and GPU",
         ("preemptions", "  of them to the host", "tokens recomputed", "KV to", "link busiest way"),
         "The price: requests taken off the GPU before their end, what was computed again, what was copied. Lower is cheaper.",
         (Measure("preemptions|offloads", "lower", ""), Measure("recomputed_tokens", "lower", "tokens"),
          Measure("(d2h|h2d)_bytes", "lower", "bytes"))),
    Term("requests completed", ("requests completed", "  rejected", "  dropped", "  unfinished"),
         "Those that got their whole answer, and what became of the others.",
         (Measure("completed", "higher", "requests"), Measure("rejected|unfinished", "lower", "requests"))),
)

#: of metrics that the table has no row for
_NO_ROW = (Measure(_SPREAD + "_e2el_ms", "lower", "ms"), Measure("request_throughput", "higher", "requests/s"))


def terms_of(titles: Sequence[str]) -> list[Term]:
    """Those that a table with these rows needs."""
    return [term for term in TERMS if any(title.startswith(term.rows) for title in titles)]


def measure_of(key: str) -> Measure | None:
    """Of a key of the summary; None where neither way is better, or nobody knows."""
    measures = (*(measure for term in TERMS for measure in term.measures), *_NO_ROW)
    return next((measure for measure in measures if re.fullmatch(measure.keys, key)), None)
