"""Which percentiles a summary reports, as `vllm bench serve --metric-percentiles` has it."""

from __future__ import annotations

from collections.abc import Sequence

from traces import BadInput, cells

OPTION = "--metric-percentiles"

ALWAYS = 99.0       #: what vLLM reports by default; here it stays beside others, for tables have it


def parse_percentiles(text: str) -> tuple[float, ...]:
    """Percentiles from a text such as "50,90,99.9"; BadInput when they cannot be used."""
    found = []
    for word in text.split(","):
        try:
            found.append(cells.number(word))
        except ValueError as error:
            raise BadInput(OPTION, cells.shown(word.strip()), str(error)) from None
    check_percentiles(found)
    return tuple(found)


def check_percentiles(percentiles: Sequence[float]) -> None:
    """BadInput unless all lie above 0, and at 100 at most."""
    if isinstance(percentiles, str) or not isinstance(percentiles, Sequence):
        raise BadInput(OPTION, repr(percentiles), "must be a sequence of numbers")
    for q in percentiles:
        if isinstance(q, bool) or not isinstance(q, int | float) or not 0 < q <= 100:
            raise BadInput(OPTION, str(q), "must be a number above 0, at most 100")


def p_word(q: float) -> str:
    """How vLLM names a percentile in a key: p99, p99.9."""
    return f"p{int(q) if q == int(q) else float(q)}"
