"""How long prompts and outputs are: laws that are written as short specs and drawn from a random stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np

from traces import cells
from traces.burstgpt import BurstGptRequest, BurstGptResponse
from traces.empirical import Empirical, Side
from traces.errors import BadInput
from traces.trace import Ints


class Lengths(Protocol):
    """A law of token counts. `str()` of one is a spec that parses back to it."""

    form: ClassVar[str]     #: how the spec is written, one capital name per parameter

    @classmethod
    def parse(cls, parameters: list[str], side: Side) -> Self:
        """The law with these parameters, as many as `form` has, for one side. ValueError says what is wrong with which."""

    def sample(self, rng: np.random.Generator, n: int) -> Ints:
        """`n` token counts, each at least 1, shape (n,)."""


@dataclass(frozen=True)
class Constant:
    """Every length is the same."""

    form: ClassVar[str] = "constant:TOKENS"

    tokens: int

    @classmethod
    def parse(cls, parameters: list[str], side: Side) -> Self:
        return cls(_tokens(parameters[0]))

    def sample(self, rng: np.random.Generator, n: int) -> Ints:
        return np.full(n, self.tokens, dtype=np.int64)

    def __str__(self) -> str:
        return f"constant:{self.tokens}"


@dataclass(frozen=True)
class Normal:
    """Normal lengths, rounded to the nearest token, then clipped to [min(64, mean), 2 mean] tokens.

    The clip moves the mean: by little when it lies some sigmas away, upwards when the mean is near 64 or below.
    """

    form: ClassVar[str] = "normal:MEAN:SIGMA"

    mean: int       #: tokens
    sigma: float    #: tokens, before the clip

    @classmethod
    def parse(cls, parameters: list[str], side: Side) -> Self:
        mean = _tokens(parameters[0])
        if 2 * mean > cells.MOST:
            raise ValueError(f"{cells.shown(parameters[0])} is larger than 2**52")
        return cls(mean, _number(parameters[1]))

    def sample(self, rng: np.random.Generator, n: int) -> Ints:
        drawn = np.rint(rng.normal(self.mean, self.sigma, n))
        return np.clip(drawn, min(64, self.mean), 2 * self.mean).astype(np.int64)

    def __str__(self) -> str:
        return f"normal:{self.mean}:{_plain(self.sigma)}"


@dataclass(frozen=True)
class Lognormal:
    """Lognormal lengths, rounded to the nearest token, at least 1 and at most 2**53."""

    form: ClassVar[str] = "lognormal:MEDIAN:SIGMA"

    median: int     #: tokens
    sigma: float    #: of the natural logarithm

    @classmethod
    def parse(cls, parameters: list[str], side: Side) -> Self:
        return cls(_tokens(parameters[0]), _number(parameters[1]))

    def sample(self, rng: np.random.Generator, n: int) -> Ints:
        with np.errstate(over="ignore"):
            drawn = np.rint(self.median * np.exp(self.sigma * rng.standard_normal(n)))
        clipped: Ints = np.clip(drawn, 1, cells.MOST).astype(np.int64)
        return clipped

    def __str__(self) -> str:
        return f"lognormal:{self.median}:{_plain(self.sigma)}"


@dataclass(frozen=True)
class Zipf:
    """Lengths 1 to `most`, each with a probability in proportion to length ** -theta; theta 0 is uniform."""

    form: ClassVar[str] = "zipf:THETA:MAX"
    longest: ClassVar[int] = 2**24      #: tokens: there is a table with an entry for each length

    theta: float
    most: int       #: tokens

    @classmethod
    def parse(cls, parameters: list[str], side: Side) -> Self:
        most = _tokens(parameters[1])
        if most > cls.longest:
            raise ValueError(f"{cells.shown(parameters[1])} is larger than 2**24")
        return cls(_number(parameters[0]), most)

    def sample(self, rng: np.random.Generator, n: int) -> Ints:
        shares = np.cumsum(np.arange(1.0, self.most + 1) ** -self.theta)
        below: Ints = np.searchsorted(shares, rng.random(n) * shares[-1], side="right").astype(np.int64)
        return below + 1

    def __str__(self) -> str:
        return f"zipf:{_plain(self.theta)}:{self.most}"


LAWS: dict[str, type[Lengths]] = {
    "constant": Constant,
    "normal": Normal,
    "lognormal": Lognormal,
    "zipf": Zipf,
    "empirical": Empirical,
    "burstgpt-request": BurstGptRequest,
    "burstgpt-response": BurstGptResponse,
}


def parse_lengths(option: str, spec: str | int, side: Side = "input") -> Lengths:
    """The law that a spec such as `normal:512:128` names; a number alone is constant. BadInput names the option."""
    text = str(spec).strip()
    kind, *parameters = text.split(":")
    if kind not in LAWS and not parameters and kind[:1].isdigit():
        kind, parameters = "constant", [kind]
    if kind not in LAWS:
        raise BadInput(option, cells.shown(text), f"unknown law; known: {', '.join(law.form for law in LAWS.values())}")
    law = LAWS[kind]
    if law.form.endswith(":FILE"):      # whose name may hold colons
        parameters = [":".join(parameters)] if any(parameters) else []
    if len(parameters) != law.form.count(":"):
        raise BadInput(option, cells.shown(text), f"must be written {law.form}")
    try:
        return law.parse(parameters, side)
    except ValueError as error:
        raise BadInput(option, cells.shown(text), str(error)) from None


def _tokens(parameter: str) -> int:
    """A whole number of tokens, at least 1."""
    try:
        tokens = cells.count(parameter)
        if tokens < 1:
            raise ValueError("must be at least 1 token")
    except ValueError as error:
        raise ValueError(f"{cells.shown(parameter)} {error}") from None
    return tokens


def _number(parameter: str) -> float:
    """A number, zero or above."""
    try:
        return cells.zero_or_more(parameter)
    except ValueError as error:
        raise ValueError(f"{cells.shown(parameter)} {error}") from None


def _plain(number: float) -> str:
    """As the shortest spec says it."""
    return str(int(number) if number.is_integer() else number)
