"""What `--link` may say instead of the profile: moving KV is free, impossible, or goes at so many GB/s."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from numbers import Real
from typing import Any, TypeGuard

from traces import cells
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

SLOWEST = 1e-3      #: GB/s; below, moving one answer takes hours, and a run hardly ends


def link_choice(link: str | float, where: str) -> LinkChoice:
    """A preset, or a rate in GB/s each way; BadInput if it is neither. `where`: which machine it is for."""
    if isinstance(link, str) and link in PRESETS:
        return PRESETS[link]
    try:
        rate = cells.number(link) if isinstance(link, str) else float(link) if _is_number(link) else inf
    except (ValueError, OverflowError):
        rate = inf
    if not SLOWEST <= rate <= cells.MOST:
        given = link if isinstance(link, str) and link else cells.shown(link)
        raise BadInput("link", where, f"must be oracle, none or a number of GB/s from {SLOWEST:g}, got {given}")
    both = {"h2d_bytes_per_s": rate * 1e9, "d2h_bytes_per_s": rate * 1e9}
    return LinkChoice(f"set by the user: {rate:g} GB/s each way", both, keeps_duplex=True)


def _is_number(value: object) -> TypeGuard[Real]:
    return isinstance(value, Real) and not isinstance(value, bool)
