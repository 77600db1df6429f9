"""Results on disk: a directory that appears whole or not at all, and is never overwritten.

    run.json        what was run and its summary, flat; the same seed gives the same bytes
    requests.csv    one row per request of the trace
    timeline.csv    how it went over time, where that was recorded
    host.json       when, where, with which versions and at what price it was computed
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from itertools import count
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any, Self

from traces import BadInput

from .detailed import request_lists
from .result import Result
from .winner import RULE, verdict

DEFAULT_ROOT = Path("tokenflow-out")
_PACKAGES = ("tokenflow-lab", "simpy", "numpy", "pydantic")
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


class Draft:
    """A directory under a passing name, which `publish` gives its own. Left unpublished, it disappears.

    Its target is `target`, or the first free `tokenflow-out/<command>-<n>`. Entering raises BadInput when the target is taken or
    nothing can be written there, before any work is done.
    """

    def __init__(self, target: Path | None, command: str) -> None:
        self._shown, self._command = target or DEFAULT_ROOT, command
        self._target = target
        self._path = Path(f".tokenflow-{token_hex(4)}.partial")
        self._made: list[Path] = []         # parents that were not there before, or are about to be

    def __enter__(self) -> Self:
        try:
            with _one_line(self._shown):
                self._open()
        except BaseException:       # an interruption as well
            self._clear()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._clear()

    def _open(self) -> None:
        if self._target is not None:
            self._target = self._target.resolve()
            _must_be_free(self._target, self._shown)
        parent = DEFAULT_ROOT if self._target is None else self._target.parent
        for folder in reversed((parent, *parent.parents)):
            if not folder.exists():
                self._made.append(folder)
                folder.mkdir(exist_ok=True)
        self._path = parent / self._path
        self._path.mkdir()

    def _clear(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        for folder in reversed(self._made):
            with suppress(OSError):         # it holds results, or was never made
                folder.rmdir()

    def write(self, name: str, content: str | bytes) -> None:
        with _one_line(self._shown):
            file = self._path / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)

    def publish(self) -> Path:
        """The draft becomes the result; where it is now, as the user would write it."""
        with _one_line(self._shown):
            if self._target is not None:
                self._path.rename(self._target)     # fails on a directory that someone else has filled meanwhile
                return self._shown
            for n in count(1):
                target = DEFAULT_ROOT / f"{self._command}-{n}"
                if not os.path.lexists(target) and _renamed(self._path, target):
                    break
            return target


def save_run(result: Result, directory: Path, detailed: bool = False) -> Path:
    """One run into a new or empty directory."""
    with Draft(directory, "run") as draft:
        write_run(draft, result, detailed=detailed)
        draft.write("host.json", as_json(host_facts()))
        return draft.publish()


def write_run(draft: Draft, result: Result, folder: str = "", detailed: bool = False) -> None:
    """run.json, requests.csv and, where recorded, timeline.csv, into a folder of the draft when one is named."""
    draft.write(os.path.join(folder, "run.json"), as_json(run_facts(result, detailed)))
    draft.write(os.path.join(folder, "requests.csv"), as_csv(result.columns()))
    if result.timeline is not None:
        draft.write(os.path.join(folder, "timeline.csv"), as_csv(result.timeline.columns()))


def write_comparison(draft: Draft, results: Mapping[str, Result], detailed: bool = False) -> None:
    """compare.json, compare.csv (one row per policy), and a folder per policy; vLLM's lists only in the folders."""
    draft.write("compare.json", as_json(comparison_facts(results)))
    facts = [run_facts(result) for result in results.values()]
    keys = dict.fromkeys(["policy", *(key for fact in facts for key in fact)])
    draft.write("compare.csv", as_csv({key: [fact.get(key) for fact in facts] for key in keys}))
    used: set[str] = set()
    for label, result in results.items():
        folder = next(name for n in count(1) if (name := folder_of(label, n)) not in used)
        used.add(folder)
        write_run(draft, result, folder, detailed)


def save_comparison(results: Mapping[str, Result], directory: Path, detailed: bool = False) -> Path:
    """Several runs into a new or empty directory."""
    with Draft(directory, "compare") as draft:
        write_comparison(draft, results, detailed)
        draft.write("host.json", as_json(host_facts()))
        return draft.publish()


def run_facts(result: Result, detailed: bool = False) -> dict[str, Any]:
    """What run.json holds: the version, the summary and, with `detailed`, vLLM's lists."""
    return {"tokenflow_lab": version_of("tokenflow-lab")} | result.summary | (request_lists(result) if detailed else {})


def comparison_facts(results: Mapping[str, Result], detailed: bool = False) -> dict[str, Any]:
    """What compare.json holds: what run.json would, by policy; and who wins, where vLLM is among them."""
    facts: dict[str, Any] = {"policies": {label: run_facts(result, detailed) for label, result in results.items()}}
    found = verdict(facts["policies"])
    return facts if found is None else facts | {"winner": found.winner, "winner_rule": RULE}


def host_facts(simulate_cpu_s: Mapping[str, float] | None = None, command: Sequence[str] | None = None) -> dict[str, Any]:
    """What host.json holds: everything about a result that its input does not determine. CPU seconds by policy."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in _PACKAGES},
        "command": list(sys.argv if command is None else command),
        "simulate_cpu_s": dict(simulate_cpu_s or {}),
        "process_cpu_s": time.process_time(),
    }


def as_json(facts: Mapping[str, Any]) -> str:
    """Indented; a list takes one line, however long."""
    return _indented(facts, "\n") + "\n"


def _indented(value: Any, newline: str) -> str:
    if not isinstance(value, Mapping) or not value:
        return json.dumps(value, allow_nan=False)
    inner = newline + "  "
    members = (f"{json.dumps(key)}: {_indented(member, inner)}" for key, member in value.items())
    return "{" + inner + f",{inner}".join(members) + newline + "}"


def as_csv(columns: Mapping[str, Any]) -> str:
    """Columns (arrays or lists) as CSV; NaN and None are empty cells."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(["" if cell != cell else cell for cell in _listed(column)] for column in columns.values())))
    return text.getvalue()


def folder_of(label: str, n: int = 1) -> str:
    """The n-th choice of a folder for a policy: its label without what shells and file systems take for something else."""
    name = re.sub(r"[^\w.=,+-]+", "_", label).strip("_.") or "policy"
    return name if n == 1 else f"{name}-{n}"


def _listed(column: Any) -> list[Any]:
    return column if isinstance(column, list) else list(column.tolist())


def version_of(package: str) -> str | None:
    """Of an installed distribution; None when it is not installed, as in a bare checkout."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@contextmanager
def _one_line(where: Path) -> Iterator[None]:
    try:
        yield
    except BadInput:
        raise
    except (OSError, ValueError, RuntimeError) as error:        # ValueError: a NUL in the name; RuntimeError: a loop of links
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise BadInput("output directory", str(where), f"cannot be written: {why.lower()}") from error


def _must_be_free(target: Path, shown: Path) -> None:
    if target.is_dir():
        if any(target.iterdir()):
            raise BadInput("output directory", str(shown), "is not empty; results are never overwritten")
        if target == Path.cwd().resolve():      # it would be replaced under the user's feet
            raise BadInput("output directory", str(shown), "is the current directory; name a new one")
    elif os.path.lexists(target):
        raise BadInput("output directory", str(shown), "is a file")


def _renamed(path: Path, target: Path) -> bool:
    """Whether the name was still free."""
    try:
        path.rename(target)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True
