"""What the rows of the table mean, and which way is better, for who sees it for the first time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .metrics import PATIENCE_S


@dataclass(frozen=True)
class Term:
    name: str
    rows: tuple[str, ...]       #: how the titles begin that it explains
    means: str


TERMS = (
    Term("TTFT", ("TTFT",),
         f"Time to the first token, from sending the request. Lower is better; above {PATIENCE_S:g} s people lose interest "
         "(TokenFlow, arXiv 2510.02758, section 2)."),
    Term("TPOT, ITL", ("TPOT", "ITL"),
         "Time per output token of each request; gaps between consecutive tokens, all of them pooled. Lower is better, but below "
         "the reader's own pace it gains nothing."),
    Term("rebuffering", ("rebuffering",),
         "How long a reader sat before an empty buffer, between first token and last. Lower is better."),
    Term("readers that stalled", ("readers that stalled",),
         "Share of readers to whom that happened at all. Lower is better."),
    Term("fluency lost", ("fluency lost",),
         "Share of readers with a second in which nothing was left to read for more than 0.3 s. Lower is better."),
    Term("effective tokens/s", ("effective tokens/s",),
         "Output that is read soon; what lies unread for long counts less or nothing. Higher is better, but it does not punish "
         "stalls."),
    Term("QoS", ("QoS",),
         "Effective tokens/s, less one reading second's worth of tokens for each second of waiting or stalling. Higher is better."),
    Term("QoE (Andes)", ("QoE",),
         "How closely reading keeps to what its reader expects: 1 is never late. Higher is better."),
    Term("goodput", ("goodput", "  of all requests"),
         "Requests that met every limit of --goodput. Higher is better."),
    Term("output tokens/s, duration", ("output tokens/s", "duration"),
         "What the engine put out, read or not, and how long it took for all. More tokens in less time are better."),
    Term("GPU busy", ("GPU busy",),
         "Share of that time in which the GPU computed."),
    Term("preemptions, KV to host and GPU",
         ("preemptions", "  of them to the host", "tokens recomputed", "KV to", "link busiest way"),
         "The price: requests taken off the GPU before their end, what was computed again, what was copied. Lower is cheaper."),
    Term("requests completed", ("requests completed", "  rejected", "  dropped", "  unfinished"),
         "Those that got their whole answer, and what became of the others."),
)


def terms_of(titles: Sequence[str]) -> list[Term]:
    """Those that a table with these rows needs."""
    return [term for term in TERMS if any(title.startswith(term.rows) for title in titles)]
