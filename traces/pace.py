"""A reader's pace: `30/10@200/20@600` is 30 tokens per second, 10 from token 200 on, 20 from token 600 on; tokens count from 0.

Reading token i takes 1/r_i, with the rate of the segment it lies in, and token j is taken up no sooner than the one before is
read: sum of 1/r_i over i < j after the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from traces import cells

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]

Number = TypeVar("Number", int, float)

Changes = tuple[tuple[int, float], ...]     #: (first token, tokens per second from it on), ascending; () for one rate all along


@dataclass(frozen=True)
class Pace:
    """A rate that changes. ValueError when it is none: rates as `cells.tps`, at least one change, tokens ascending from 1."""

    tps: float
    changes: Changes

    def __post_init__(self) -> None:
        try:
            tokens = [token for token, _ in self.changes]
        except (TypeError, ValueError):
            raise ValueError("changes must be pairs of a token and a rate") from None
        if not all(_is_a((int, np.integer), token) and 1 <= token <= cells.MOST for token in tokens):
            raise ValueError("tokens must be whole numbers from 1 to 2**53")
        if not tokens:
            raise ValueError("must change at token 1 or later")
        for before, after in pairwise(tokens):
            if after <= before:
                raise ValueError(f"tokens must ascend, {after} follows {before}")
        for tps in (self.tps, *(tps for _, tps in self.changes)):
            if not (_is_a((int, float, np.number), tps) and cells.LEAST_TPS <= tps <= cells.MOST):
                raise ValueError(f"rates must be numbers from {cells.LEAST_TPS:g} to 2**53, not {cells.shown(tps)}")

    def __str__(self) -> str:
        """The shortest text that reads back as this pace."""
        first, *later = (str(float(tps)).removesuffix(".0") for tps in (self.tps, *(tps for _, tps in self.changes)))
        return "/".join((first, *(f"{tps}@{token}" for tps, (token, _) in zip(later, self.changes))))


def _is_a(kinds: tuple[type, ...], value: object) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def parse(text: str) -> float | Pace:
    """A number, or a pace. ValueError has a reason that follows the text, as in `traces.cells`."""
    if "/" not in text:
        return cells.tps(text)
    first, *later = (part.strip() for part in text.split("/"))
    try:
        return Pace(_part(first, cells.tps), tuple(_change(part) for part in later))
    except ValueError as error:
        raise ValueError(f"is not a pace: {error}") from None


def _change(text: str) -> tuple[int, float]:
    tps, at, token = (part.strip() for part in text.partition("@"))
    if not at:
        raise ValueError(f"{cells.shown(text)} must be written RATE@TOKEN")
    return _part(token, _token, "token "), _part(tps, cells.tps)


def _token(text: str) -> int:
    token = cells.count(text)
    if not token:
        raise ValueError("must be at least 1")
    return token


def _part(text: str, parse: Callable[[str], Number], what: str = "") -> Number:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{what}{cells.shown(text)} {error}") from None


# ---- of many readers: rates of the first tokens, shape (n,), and what changes later, an array of `Changes`

def constant(n: int) -> Objects:
    """Nobody's rate changes."""
    changes = np.empty(n, object)
    changes.fill(())
    return changes


def changing(changes: Objects) -> Ints:
    """Whose rate changes."""
    return changes.astype(np.bool_).nonzero()[0]


def joined(tps: Floats, changes: Objects) -> list[float | Pace]:
    """Each reader's rate or pace."""
    return [Pace(first, later) if later else first for first, later in zip(tps.tolist(), changes.tolist())]


def split(cells: npt.NDArray[np.generic]) -> tuple[Floats, Objects]:
    """Rates and changes of readers, each given as a rate or as the text of a pace. ValueError as `parse`."""
    told = [parse(cell) if isinstance(cell, str) else cell for cell in cells.tolist()]
    changes = constant(len(told))
    for i, each in enumerate(told):
        if isinstance(each, Pace):
            changes[i] = each.changes
    return np.array([each.tps if isinstance(each, Pace) else each for each in told], np.float64), changes


def reading_s(tps: float, changes: Changes, tokens: int) -> Floats:
    """Seconds from taking up token 0 until token j is due, shape (tokens,)."""
    start, rate, length = _segments(tps, changes, tokens)
    since_s = np.append(0.0, (length / rate).cumsum())[: len(length)]
    due_s: Floats = np.repeat(since_s, length) + (np.arange(tokens) - np.repeat(start, length)) / np.repeat(rate, length)
    return due_s


def mean_tps(tps: Floats, changes: Objects, tokens: Ints) -> Floats:
    """Mean rate of each reader over an answer of so many tokens: the tokens over the time that reading them takes."""
    mean = tps.copy()
    for i in changing(changes).tolist():
        _, rate, length = _segments(tps[i], changes[i], tokens[i])
        mean[i] = tokens[i] / (length / rate).sum()
    return mean


def _segments(tps: float, changes: Changes, tokens: int) -> tuple[Ints, Floats, Ints]:
    """First token, rate and length of each segment that an answer of so many tokens gets to."""
    start, rate = np.array([0, *(token for token, _ in changes)]), np.array([tps, *(rate for _, rate in changes)])
    reached = start < tokens
    return start[reached], rate[reached], np.diff(start[reached], append=tokens)
