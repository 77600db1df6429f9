"""Goodput: requests per second that meet every limit, as `vllm bench serve --goodput` counts them, with one limit more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from policies.api import Bools
from traces import BadInput, cells

from .fluency import TOLERANCE

if TYPE_CHECKING:
    from .metrics import PerRequest

OPTION = "--goodput"

#: what may be limited, in milliseconds: vLLM's three, and the time that a reader sits before an empty buffer, in all
LIMITS = ("ttft", "tpot", "e2el", "rebuffer")


def parse_goodput(words: Sequence[str]) -> dict[str, float]:
    """Limits in milliseconds by name, from texts such as "ttft:1300,tpot:50"; BadInput when they cannot be used."""
    limits: dict[str, float] = {}
    for word in words:
        for pair in word.split(","):
            name, colon, limit = (part.strip() for part in pair.partition(":"))
            if not colon:
                raise BadInput(OPTION, repr(pair), "must be written NAME:MILLISECONDS, such as ttft:1300")
            if name in limits:
                raise BadInput(OPTION, repr(pair.strip()), f"{name} is given twice")
            try:
                limits[name] = cells.number(limit)
            except ValueError as error:
                raise BadInput(OPTION, cells.shown(pair.strip()), f"{cells.shown(limit)} {error}") from None
    check_goodput(limits)
    return limits


def check_goodput(limits: Mapping[str, float]) -> None:
    """BadInput on an unknown name or a limit that is none. No rebuffering at all may be asked for, no time at all not."""
    if not isinstance(limits, Mapping):
        raise BadInput(OPTION, repr(limits), "must map names to milliseconds")
    for name, limit in limits.items():
        if name not in LIMITS:
            raise BadInput(OPTION, repr(name), f"unknown; known are {', '.join(LIMITS)}")
        number = isinstance(limit, int | float) and not isinstance(limit, bool)
        if not (number and (0 < limit < inf or (limit == 0 and name == "rebuffer"))):
            raise BadInput(OPTION, f"{name}:{limit}", "must be a positive number of milliseconds")


def described(limits: Mapping[str, float]) -> str | None:
    """As the command line has it; None when there are none."""
    return ",".join(f"{name}:{limit:.12g}" for name, limit in limits.items()) or None


def which_are_good(limits: Mapping[str, float], requests: PerRequest, completed: Bools) -> Bools:
    """Which completed requests meet every limit, shape (n,). What a request does not have meets any limit: the time per output
    token of a single one, the rebuffering of an answer that nobody reads.
    """
    seconds = {"ttft": requests.ttft_s, "tpot": requests.tpot_s, "e2el": requests.e2e_s,
               "rebuffer": requests.reading.rebuffer_s - TOLERANCE}
    good: Bools = completed.copy()
    for name, limit in limits.items():
        good &= np.nan_to_num(seconds[name]) <= limit / 1000
    return good
