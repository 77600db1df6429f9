"""What a figure or table of the paper comes to here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .judging import Row
from .pictures import Picture
from .runs import Found, Run
from .setups import How

__all__ = ["Item", "Picture", "Table", "Told"]


@dataclass(frozen=True)
class Table:
    """Numbers for the page and for reproduction.json."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]       #: texts, numbers, or None


@dataclass
class Told:
    """What an item has to say, in this order."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)      #: setups, readings, what to keep in mind
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class Item:
    """One name of `tokenflow reproduce`."""

    name: str
    about: str
    minutes: float                                      #: expected, alone: three seeds on two cores
    runs: Callable[[How], Sequence[Run]]
    tell: Callable[[How, Found], Told]
    in_all: bool = True
