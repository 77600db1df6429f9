"""Measured step times: a table that somebody made, or the samples of `tokenflow-calibrate profile`. Read strictly, a fault a line.

A table has columns phase,batch,tokens_or_context,latency_ms. prefill: `batch` prompts of so many tokens; decode: `batch`
requests with so many tokens of context. Where tokens,kv_tokens,pairs,seqs are there as well (they are in samples) they say
what a step computed, and other phases may occur. Rows whose `status` is not ok are left out. Other columns are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from traces import BadInput
from traces.cells import count, positive, shown, zero_or_more
from traces.tables import open_table

from .solver import Bools, Floats

STEPS, MACHINE = "steps.csv", "machine.json"    #: of a samples folder

_NEEDED = ("phase", "batch", "tokens_or_context", "latency_ms")
_WORK = ("tokens", "kv_tokens", "pairs", "seqs")
_HOST = ("schedule_ms", "sample_ms", "update_ms")
_FACTS = ("system", "model", "backend", "backend_version", "source")
_ONE = ("system", "model", "backend")       # one law each: rows of several are no table of one machine
_PLAIN = ("prefill", "decode")      # phases whose work follows from batch and tokens
_MOST_ROWS = 10_000     # intervals take 85 KB of memory a row


@dataclass(frozen=True)
class StepTable:
    """Rows of measured steps."""

    source: str                         #: the file
    phase: npt.NDArray[np.str_]
    batch: Floats
    each: Floats                        #: tokens of a prompt, or of a context
    work: Floats                        #: (rows, 4): tokens, KV tokens, pairs, requests
    seconds: Floats
    host_s: Floats | None               #: scheduling, sampling and bookkeeping within `seconds`, where they were timed
    facts: Mapping[str, Any]            #: what the table, or the machine of the samples, says about itself
    skipped: int = 0                    #: rows that were not measured

    def __len__(self) -> int:
        return len(self.seconds)

    def select(self, rows: npt.NDArray[np.int64] | Bools) -> StepTable:
        return replace(self, phase=self.phase[rows], batch=self.batch[rows], each=self.each[rows], work=self.work[rows],
                       seconds=self.seconds[rows], host_s=None if self.host_s is None else self.host_s[rows])

    def row(self, index: int) -> str:
        """In words: decode 256 x 128."""
        return f"{self.phase[index]} {self.batch[index]:.0f} x {self.each[index]:,.0f}"

    @property
    def kv_held(self) -> Floats:
        """Tokens of KV that the step's requests hold at its end, at least."""
        prefilled = np.where(self.phase == "prefill", self.work[:, 0], 0)
        held: Floats = self.work[:, 1] + prefilled
        return held


def read_steps(path: str | Path) -> StepTable:
    """A table, or a folder of samples."""
    folder = Path(path)
    try:
        samples = folder.is_dir()
    except ValueError as error:
        raise BadInput("table", shown(str(path)), f"is not a file name: {error}") from None
    if not samples:
        return read_table(folder)
    must_be_whole(folder / STEPS)
    table = read_table(folder / STEPS)
    return replace(table, source=str(path), facts=read_machine(folder))


def read_table(path: str | Path) -> StepTable:
    """The rows of a CSV file, gzipped or not; BadInput names the first fault."""
    file = str(path)
    try:
        return _read(file)
    except BadInput as error:
        raise error if error.what != "trace" else BadInput("table", error.where, error.why) from None


def must_be_whole(file: Path) -> None:
    """BadInput if the last line was cut short, as by a power cut."""
    if file.is_file() and not file.read_bytes().endswith(b"\n"):
        raise BadInput("samples", str(file), "its last line was cut short: delete that line, or go on with profile --resume")


def read_machine(folder: Path) -> dict[str, Any]:
    """machine.json of a samples folder."""
    path = folder / MACHINE
    try:
        facts = json.loads(path.read_bytes())
    except OSError as error:
        raise BadInput("samples", str(path), f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput("samples", str(path), f"is not JSON: {error}") from None
    if not isinstance(facts, dict):
        raise BadInput("samples", str(path), "is not a JSON object")
    return facts


def _read(file: str) -> StepTable:
    with open_table(file) as table:
        missing = [name for name in _NEEDED if name not in table.names]
        twice = [name for name in table.names if table.names.count(name) > 1]
        if twice:
            raise BadInput("table", f"{file}, line {table.line}", f"column {shown(twice[0])} appears more than once")
        if missing:
            found = ", ".join(map(shown, table.names[:12]))
            raise BadInput("table", f"{file}, line {table.line}", f"has no column {', '.join(missing)}; columns found {found}")
        given = set(_WORK) & set(table.names)
        if given and given != set(_WORK):
            raise BadInput("table", f"{file}, line {table.line}", f"has some of the columns {', '.join(_WORK)}: needs all or none")
        timed = all(name in table.names for name in _HOST)
        facts = [name for name in _FACTS if name in table.names]
        wanted = [*_NEEDED, *(_WORK if given else ()), *(_HOST if timed else ()), *facts]
        status = ["status"] if "status" in table.names else []
        rows, skipped = [], 0
        said: dict[str, set[str]] = {name: set() for name in facts}
        for line, cells in table.rows(wanted + status):
            if status and cells.pop().strip() != "ok":      # type: ignore[attr-defined]
                skipped += 1
                continue
            rows.append(_row(file, line, dict(zip(wanted, cells)), bool(given), timed))
            for name in facts:
                said[name].add(cells[wanted.index(name)].strip())
    if not rows:
        raise BadInput("table", file, f"no usable row: {skipped} rows are not ok" if skipped else "holds a header only")
    if len(rows) > _MOST_ROWS:
        raise BadInput("table", file, f"holds {len(rows):,} steps; a fit takes at most {_MOST_ROWS:,}")
    for name in set(_ONE) & set(facts):
        if len(said[name]) > 1:
            several = ", ".join(sorted(said[name])[:3])
            raise BadInput("table", file, f"column {name}: holds {several}: a fit is of one {name}")
    numbers = np.array([row[1:] for row in rows])
    constant = {name: text for name in facts if len(said[name]) == 1 for text in said[name]}
    return StepTable(file, np.array([row[0] for row in rows]), numbers[:, 0], numbers[:, 1], numbers[:, 2:6], numbers[:, 6],
                     numbers[:, 7] if timed else None, constant, skipped)


def _row(file: str, line: int, cells: Mapping[str, str], given: bool, timed: bool) -> tuple[Any, ...]:
    """Phase, batch, tokens each, four numbers of work, seconds, host seconds."""
    def number(name: str, parse: Callable[[str], float], unit: float = 1.0) -> float:
        try:
            return parse(cells[name].strip() or "nothing") / unit
        except ValueError as error:
            raise BadInput("table", f"{file}, line {line}", f"column {name}: {shown(cells[name])} {error}") from None

    phase = cells["phase"].strip()
    batch, each = number("batch", count), number("tokens_or_context", zero_or_more)
    seconds = number("latency_ms", positive, 1e3)
    if given:
        work = tuple(number(name, zero_or_more) for name in _WORK)
    elif phase not in _PLAIN:
        raise BadInput("table", f"{file}, line {line}", f"column phase: {shown(phase)} is neither prefill nor decode; "
                       f"other phases need the columns {', '.join(_WORK)}")
    else:
        work = (batch * each, 0.0, batch * each**2 / 2, batch) if phase == "prefill" else (batch, batch * each, 0.0, batch)
    if work[0] <= 0 or work[3] <= 0:
        raise BadInput("table", f"{file}, line {line}", "a step of no tokens or no requests takes no time")
    host_s = sum(number(name, _seconds) for name in _HOST) if timed else 0.0
    return phase, batch, each, *work, seconds, host_s


def read_columns(path: str | Path, parsers: Mapping[str, Callable[[str], float]]) -> list[dict[str, float]]:
    """The rows of a CSV file of numbers, by column; BadInput names the first fault."""
    file = str(path)
    try:
        with open_table(file) as table:
            missing = [name for name in parsers if name not in table.names]
            if missing:
                raise BadInput("table", f"{file}, line {table.line}", f"has no column {', '.join(missing)}")
            rows = []
            for line, cells in table.rows(list(parsers)):
                row = {}
                for (name, parse), cell in zip(parsers.items(), cells):
                    try:
                        row[name] = parse(cell.strip() or "nothing")
                    except ValueError as error:
                        raise BadInput("table", f"{file}, line {line}", f"column {name}: {shown(cell)} {error}") from None
                rows.append(row)
    except BadInput as error:
        raise error if error.what != "trace" else BadInput("table", error.where, error.why) from None
    if not rows:
        raise BadInput("table", file, "holds a header only")
    return rows


def _seconds(ms: str) -> float:
    return zero_or_more(ms) / 1000
