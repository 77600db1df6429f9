"""A folder of samples: machine.json says where, with what and how they were measured, steps.csv and links.csv hold them.

Each row is on the disk when `add` returns, so that whatever ends a profiling leaves what was measured before.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from traces import BadInput

MACHINE, STEPS, LINKS = "machine.json", "steps.csv", "links.csv"

STEP_COLUMNS = ("phase", "batch", "tokens_or_context", "tokens", "kv_tokens", "pairs", "seqs", "latency_ms", "forward_ms",
                "schedule_ms", "sample_ms", "update_ms", "repeats", "p10_ms", "p90_ms", "status")
LINK_COLUMNS = ("direction", "layout", "block_bytes", "blocks", "with_compute", "gb_per_s", "repeats")

#: facts that change from one start to the next on the same machine
_PASSING = {"date", "clocks", "num_gpu_blocks", "links", "start_s"}

Key = tuple[str, int, int, int, float]


class Samples:
    """A new folder, or with `resume` one that was begun before."""

    def __init__(self, folder: Path, resume: bool) -> None:
        self.folder, self.resumed = folder, False
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise BadInput("-o", str(there), "is not a directory")
        if not os.access(there, os.W_OK):
            raise BadInput("-o", str(there), "cannot be written to")
        machine = folder / MACHINE
        if machine.exists() and not resume:
            raise BadInput("-o", str(folder), "holds samples already; --resume goes on with them, or choose another folder")
        if folder.exists() and not machine.exists() and any(folder.iterdir()):
            raise BadInput("-o", str(folder), f"is not empty and holds no {MACHINE}; choose another folder")
        self._before: dict[str, Any] | None = read_facts(machine) if machine.exists() else None

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Keep the facts of this machine. BadInput where the samples in the folder come from another."""
        if self._before is not None:
            self.must_agree(facts)
            self.measured()
            self.resumed = True
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_facts(facts)
            _append(self.folder / STEPS, [STEP_COLUMNS])
        except OSError as error:
            raise BadInput("-o", str(self.folder), error.strerror or str(error)) from None

    def must_agree(self, facts: Mapping[str, Any]) -> None:
        """BadInput if one of these facts is not what the samples in the folder were measured with."""
        for name, now in facts.items():
            before = None if self._before is None else self._before.get(name)
            if self._before is not None and name not in _PASSING and before != json.loads(json.dumps(now)):
                name, before, now = _innermost(name, before, now)
                raise BadInput("--resume", str(self.folder), f"was measured with {name} {before}, this would be {now}")

    def note(self, **facts: Any) -> None:
        """Add facts, or change them."""
        before = read_facts(self.folder / MACHINE)
        self._write_facts(before | facts)

    def measured(self) -> set[Key]:
        """Keys of the points that have a row, the failed ones among them."""
        steps = self.folder / STEPS
        whole_lines(steps)
        if not steps.exists() or not steps.stat().st_size:      # ended before the header was written
            _append(steps, [STEP_COLUMNS])
        with open(steps, encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            try:
                if tuple(rows.fieldnames or ()) != tuple(STEP_COLUMNS):
                    raise ValueError("line 1 is not its header")
                return {(row["phase"], int(row["batch"]), int(row["tokens_or_context"]), int(row["tokens"]), float(row["pairs"]))
                        for row in rows}
            except (ValueError, TypeError) as error:
                raise BadInput("--resume", str(steps), f"cannot be read: {error}") from None

    def add(self, row: Mapping[str, Any]) -> None:
        """One grid point."""
        _append(self.folder / STEPS, [[row[name] for name in STEP_COLUMNS]])

    @property
    def links(self) -> str:
        """What machine.json says of them."""
        return str(read_facts(self.folder / MACHINE).get("links", ""))

    def begin_links(self) -> None:
        """An empty links.csv."""
        (self.folder / LINKS).unlink(missing_ok=True)
        _append(self.folder / LINKS, [LINK_COLUMNS])

    def add_link(self, row: Mapping[str, Any]) -> None:
        _append(self.folder / LINKS, [[row[name] for name in LINK_COLUMNS]])

    def _write_facts(self, facts: Mapping[str, Any]) -> None:
        partial = self.folder / f"{MACHINE}.partial"
        partial.write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(self.folder / MACHINE)


def whole_lines(path: Path) -> None:
    """Cut off a last line that was not written to its end; an absent file is left absent."""
    if path.exists():
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(path, end)


def _innermost(name: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """Of two unequal objects the first entry that differs, by its dotted name."""
    while isinstance(before, dict) and isinstance(now, dict):
        key = next(key for key in {**before, **now} if before.get(key) != json.loads(json.dumps(now.get(key))))
        name, before, now = f"{name}.{key}", before.get(key), now.get(key)
    return name, json.dumps(before), json.dumps(now)


def read_facts(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput("samples", str(path), f"cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise BadInput("samples", str(path), "is not a JSON object")
    return found


def _append(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    """In one write, and on the disk when it returns."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    with open(path, "ab") as file:
        file.write(text.getvalue().encode())
        file.flush()
        os.fsync(file.fileno())
