"""Lengths drawn from the requests of a file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import numpy as np

from traces.load import load_lengths
from traces.trace import Ints

Side = Literal["input", "output"]


@dataclass(frozen=True)
class Empirical:
    """One column of a trace, or of a file with only `input_tokens` and `output_tokens`, drawn with replacement."""

    form: ClassVar[str] = "empirical:FILE"

    file: str
    side: Side
    pairs: Ints = field(repr=False, compare=False)      #: prompt and output tokens of every request, shape (n, 2)

    @classmethod
    def parse(cls, parameters: list[str], side: Side) -> Self:
        return cls(parameters[0], side, load_lengths(parameters[0]))

    def sample(self, rng: np.random.Generator, n: int) -> Ints:
        return self.draw(rng, n)[:, ("input", "output").index(self.side)]

    def draw(self, rng: np.random.Generator, n: int) -> Ints:
        """Both lengths of `n` requests, shape (n, 2): prompt and output of one request stay together."""
        drawn: Ints = self.pairs[rng.integers(len(self.pairs), size=n)]
        return drawn

    def pairs_with(self, other: object) -> bool:
        """Whether both draw from one file: then whole requests are to be drawn."""
        return isinstance(other, Empirical) and os.path.realpath(self.file) == os.path.realpath(other.file)

    def __str__(self) -> str:
        return f"empirical:{self.file}"
