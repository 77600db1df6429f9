"""One cell of text into one value. A parser raises ValueError with a reason that follows the cell: "'x' is not a number"."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime
from math import isinf, isnan

MOST = 2**53                #: the largest number taken anywhere: above it, floats no longer count in ones
LEAST_TPS = 1e-9            #: tokens per second: nobody reads one in 30 years, and sums of far longer times are no longer exact
LONGEST_NAME = 1000         #: characters
TICKS_PER_S = 10_000_000    #: of `utc_ticks`: Azure's clock counts in 100 ns

_TIME = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,7}))?(?:\+00:00|Z)?", re.ASCII)
_DIGITS = re.compile(r"[+-]?[0-9]+")
_READER = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def shown(value: object) -> str:
    """The value as an error line shows it: quoted, escaped and short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def finite(text: str) -> float:
    """A number, neither NaN nor infinite."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError("is not a number") from None
    if "_" in text or not text.isascii():  # Python takes 1_000 and digits of any script; no other reader of the file would
        raise ValueError("is not a number")
    if isnan(value):
        raise ValueError("is NaN")
    if isinf(value):
        raise ValueError("is infinite" if "n" in text.lower() else "is larger than 2**53")
    return value


def real(text: str) -> float:
    """A finite number, at most 2**53 in size."""
    value = finite(text)
    if abs(value) > MOST:
        raise ValueError("is larger than 2**53")
    return value


def number(text: str) -> float:
    """A number as a flag gives it: inf and nan may be written, and whether they will do is for others to say."""
    return float(text) if text.strip().lower().lstrip("+-") in ("inf", "infinity", "nan") else real(text.strip())


def whole(text: str) -> int:
    """A whole number of any sign, in digits, as a flag gives it."""
    if not _DIGITS.fullmatch(text.strip()):
        raise ValueError("is not a whole number")
    real(text.strip())
    return int(text)


def zero_or_more(text: str) -> float:
    """A finite number, zero or above."""
    value = real(text)
    if value < 0:
        raise ValueError("is negative")
    return value


def positive(text: str) -> float:
    """A finite number above zero."""
    value = real(text)
    if value <= 0:
        raise ValueError("must be above 0")
    return value


def tps(text: str) -> float:
    """Tokens per second that a reader takes."""
    value = positive(text)
    if value < LEAST_TPS:
        raise ValueError(f"must be at least {LEAST_TPS:g}")
    return value


def count(text: str) -> int:
    """A whole number, zero or above; 12.0 is one, 12.5 is not."""
    if len(text) < 16 and text.isascii() and text.isdigit():
        return int(text)
    value = zero_or_more(text)
    if not value.is_integer():
        raise ValueError("is not a whole number")
    return int(value)


def seconds_from_ms(text: str) -> float:
    """Positive milliseconds as the float nearest to so many seconds: the decimal point is moved, and nothing rounded twice."""
    finite(text)
    digits, _, exponent = text.lower().partition("e")
    return positive(f"{digits}e{int(exponent or 0) - 3}")


def utc_ticks(text: str) -> int:
    """A UTC time such as 2023-11-16 18:15:46.6805900, as 100 ns ticks since year 1, exact."""
    match = _TIME.fullmatch(text)
    try:
        if not match:
            raise ValueError
        time = datetime.fromisoformat(match[1])
    except ValueError:
        raise ValueError("is not a UTC time such as 2023-11-16 18:15:46.6805900") from None
    seconds = ((time.toordinal() * 24 + time.hour) * 60 + time.minute) * 60 + time.second
    return seconds * TICKS_PER_S + int((match[2] or "").ljust(7, "0"))


def yes_or_no(text: str) -> bool:
    """true, 1, yes, false, 0 or no, in any case."""
    try:
        return _READER[text.lower()]
    except KeyError:
        raise ValueError("is none of true, false, 1, 0, yes, no") from None


def name(text: str) -> str:
    """A name without surrounding blanks. Control characters and lone surrogates, which no CSV file carries safely, are refused."""
    text = text.strip()
    if len(text) > LONGEST_NAME:
        raise ValueError(f"is longer than {LONGEST_NAME} characters")
    if not text.isprintable() and any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError("holds a control character")
    return text
