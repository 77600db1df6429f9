"""Numbers that a user gives as options. Each check raises BadInput with the option, the value and what it must be."""

from __future__ import annotations

from math import inf
from numbers import Integral, Real

from traces.cells import MOST
from traces.errors import BadInput


def whole(option: str, value: object, *, least: int, most: int = MOST) -> int:
    """A whole number in [least, most]."""
    if isinstance(value, Integral) and not isinstance(value, bool) and least <= value <= most:
        return int(value)
    raise BadInput(option, str(value), f"must be a whole number from {least} to {_spelt(most)}")


def zero_or_more(option: str, value: object) -> float:
    """A number in [0, 2**53]."""
    if isinstance(value, Real) and not isinstance(value, bool) and 0 <= value <= MOST:
        return float(value)
    raise BadInput(option, str(value), "must be a number, zero or above, of at most 2**53")


def positive(option: str, value: object, *, infinite: bool = False) -> float:
    """A number in (0, 2**53]; with `infinite`, inf as well."""
    if isinstance(value, Real) and not isinstance(value, bool) and (0 < value <= MOST or (infinite and value == inf)):
        return float(value)
    raise BadInput(option, str(value), f"must be a number above 0 and at most 2**53{', or inf' if infinite else ''}")


def _spelt(most: int) -> str:
    return "2**53" if most == MOST else str(most)
