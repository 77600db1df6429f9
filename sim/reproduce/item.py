"""What a figure or table of the paper comes to here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from .judging import Row
from .pictures import Picture
from .runs import Found, Run
from .setups import How

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Item", "Picture", "Table", "Told"]


@dataclass(frozen=True)
class Table:
    """Numbers for the page and for reproduction.json."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]       #: texts, numbers, or None


@dataclass(repr=False)
class Told:
    """What an item has to say, in this order."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)      #: setups, readings, what to keep in mind
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)

    def to_pandas(self) -> DataFrame:
        """A row per verdict; effects as the paper writes them: -80 % is a fifth of the baseline's."""
        from pandas import DataFrame

        from .page import ours, published
        columns = ("claim", "policy", "against", "on", "published", "ours", "verdict", "why")
        return DataFrame([(row.says, row.policy, row.baseline, row.on, published(row), ours(row), row.verdict, row.why)
                          for row in self.rows], columns=columns)

    def __repr__(self) -> str:
        return f"<{len(self.rows)} verdicts, {len(self.tables)} tables, {len(self.pictures)} pictures>"

    def _repr_html_(self) -> str:
        """Verdicts, without the columns that are empty, and notes."""
        rows = self.to_pandas().astype(str)
        shown = [str(name) for name in rows if (rows[name] != "").any()]
        lines = [_line("th", shown), *(_line("td", cells) for cells in rows[shown].values.tolist())] if shown else []
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f'<div style="overflow-x: auto"><table>{"".join(lines)}</table></div>{notes}'


def _line(tag: str, cells: Sequence[str]) -> str:
    """Arguments of policies on a line of their own."""
    inner = (f'<{tag} style="text-align: left; min-width: 4em">{escape(cell).replace("[", "<br>[")}</{tag}>' for cell in cells)
    return f"<tr>{''.join(inner)}</tr>"


@dataclass(frozen=True)
class Item:
    """One name of `tokenflow reproduce`."""

    name: str
    about: str
    minutes: float                                      #: expected, alone: three seeds on two cores
    runs: Callable[[How], Sequence[Run]]
    tell: Callable[[How, Found], Told]
    in_all: bool = True
