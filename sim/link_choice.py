"""What `--link` may say instead of the profile: moving KV is free, impossible, or goes at so many GB/s."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from numbers import Real
from typing import Any

from traces.errors import BadInput


@dataclass(frozen=True)
class LinkChoice:
    status: str                 #: for `link_status` of a result; what precedes the colon is enough for a heading
    machine: dict[str, Any]     #: fields of `Machine` that it replaces
    keeps_duplex: bool = False  #: the profile's contention of the two directions stays


ORACLE = LinkChoice("oracle: copies take no time", {
    "h2d_bytes_per_s": inf, "d2h_bytes_per_s": inf, "duplex_h2d": 1.0, "duplex_d2h": 1.0, "copy_overhead_s": 0.0})
NONE = LinkChoice("none: no host tier, whoever is preempted is computed anew", {"host_kv_blocks": 0})
PRESETS = {"oracle": ORACLE, "none": NONE}


def link_choice(link: str | float, where: str) -> LinkChoice:
    """A preset, or a rate in GB/s each way; BadInput if it is neither. `where`: which machine it is for."""
    if isinstance(link, str) and link in PRESETS:
        return PRESETS[link]
    try:
        rate = float(link) if isinstance(link, str | Real) and not isinstance(link, bool) else inf
    except ValueError:
        rate = inf
    if not (isfinite(rate) and rate > 0):
        raise BadInput("link", where, f"must be oracle, none or a positive number of GB/s, got {link or repr(link)}")
    both = {"h2d_bytes_per_s": rate * 1e9, "d2h_bytes_per_s": rate * 1e9}
    return LinkChoice(f"set by the user: {rate:g} GB/s each way", both, keeps_duplex=True)
