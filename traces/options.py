"""Numbers that a user gives as options. Each check raises BadInput with the option, the value and what it must be."""

from __future__ import annotations

from math import inf
from typing import TypeGuard

import numpy as np

from traces.cells import LEAST_TPS, MOST, shown
from traces.errors import BadInput


def whole(option: str, value: object, *, least: int, most: int = MOST) -> int:
    """A whole number in [least, most]."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and least <= value <= most:
        return int(value)
    raise BadInput(option, shown(value), f"must be a whole number from {least} to {'2**53' if most == MOST else most}")


def zero_or_more(option: str, value: object) -> float:
    """A number in [0, 2**53]."""
    if _is_number(value) and 0 <= value <= MOST:
        return float(value)
    raise BadInput(option, shown(value), "must be a number from 0 to 2**53")


def positive(option: str, value: object, *, infinite: bool = False) -> float:
    """A number in (0, 2**53]; with `infinite`, inf as well."""
    if _is_number(value) and (0 < value <= MOST or (infinite and value == inf)):
        return float(value)
    raise BadInput(option, shown(value), f"must be a number above 0, at most 2**53{', or inf' if infinite else ''}")


def tps(option: str, value: object) -> float:
    """Tokens per second that a reader takes."""
    if _is_number(value) and LEAST_TPS <= value <= MOST:
        return float(value)
    raise BadInput(option, shown(value), f"must be a number from {LEAST_TPS:g} to 2**53")


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
