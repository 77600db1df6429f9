"""Chrome's trace event format, as Perfetto reads it: events written one by one, in microseconds with three decimals.

Each track gets a number that no other has, and its name. Times are rounded to nanoseconds, so that what follows each other does
not overlap.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

_FIRST_TRACK = 101      # far from the numbers of processes, which would make a track the main one of its process
_BATCH = 4096           # events that are put into the file at a time


@dataclass(frozen=True)
class Track:
    """A line of slices that follow each other."""

    process: str
    name: str
    order: int = 0          #: among the tracks of its process


class TraceWriter:
    """Into a binary file; gzipped on request. Events before `from_s` and from `to_s` on are left out, slices cut there."""

    def __init__(self, file: BinaryIO, zipped: bool, from_s: float = 0.0, to_s: float = inf) -> None:
        self._from_ns, self._to_ns = _ns(from_s), None if to_s == inf else _ns(to_s)
        self._file: BinaryIO = cast(BinaryIO, gzip.GzipFile("", "wb", 6, file, mtime=0)) if zipped else file
        self._zipped = zipped
        self._processes: dict[str, int] = {}
        self._tracks: dict[Track, int] = {}
        self._counted: dict[tuple[str, str], float] = {}
        self._lines = ['{"displayTimeUnit": "ms", "traceEvents": [']
        self._first = True
        self.events = 0         #: but for names

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self._zipped:
            self._file.close()

    def slice(self, track: Track, name: str, start_s: float, end_s: float, args: Mapping[str, Any], brief: bool = False) -> None:
        """Something that took a while; `brief`: even where that was no time at all."""
        start, end = max(_ns(start_s), self._from_ns), _ns(end_s)
        end = end if self._to_ns is None else min(end, self._to_ns)
        if end > start or (brief and end == start and end != self._to_ns):
            self._put({"ph": "X", "name": name, **self._at(start, track), "dur": (end - start) / 1000, "args": dict(args)})

    def instant(self, track: Track, name: str, at_s: float, args: Mapping[str, Any]) -> None:
        if self._within(at := _ns(at_s)):
            self._put({"ph": "i", "s": "t", "name": name, **self._at(at, track), "args": dict(args)})

    def counter(self, process: str, name: str, at_s: float, value: float) -> None:
        """From then on, until another value is given."""
        if self._within(at := _ns(at_s)) and self._counted.get((process, name)) != value:
            self._counted[process, name] = value
            self._put({"ph": "C", "name": name, "pid": self._pid(process), "tid": 0, "ts": at / 1000, "args": {"value": value}})

    def close(self, about: Mapping[str, Any]) -> None:
        """The end of the file; `about`: what was traced, for who opens it."""
        self._lines.append(f'\n], "otherData": {json.dumps(dict(about), allow_nan=False)}}}\n')
        self._flush()

    def _within(self, at: int) -> bool:
        return at >= self._from_ns and (self._to_ns is None or at < self._to_ns)

    def _at(self, at: int, track: Track) -> dict[str, Any]:
        if track not in self._tracks:
            self._tracks[track] = tid = _FIRST_TRACK + len(self._tracks)
            self._name("thread", self._pid(track.process), tid, track.name, track.order)
        return {"pid": self._processes[track.process], "tid": self._tracks[track], "ts": at / 1000}

    def _pid(self, process: str) -> int:
        if process not in self._processes:
            self._processes[process] = pid = 1 + len(self._processes)
            self._name("process", pid, 0, process, pid)
        return self._processes[process]

    def _name(self, what: str, pid: int, tid: int, name: str, order: int) -> None:
        for key, value in (("name", name), ("sort_index", order)):
            self._line({"ph": "M", "name": f"{what}_{key}", "pid": pid, "tid": tid, "ts": 0, "args": {key: value}})

    def _put(self, event: Mapping[str, Any]) -> None:
        self.events += 1
        self._line(event)

    def _line(self, event: Mapping[str, Any]) -> None:
        self._lines.append(("\n" if self._first else ",\n") + json.dumps(event, allow_nan=False))
        self._first = False
        if len(self._lines) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._file.write("".join(self._lines).encode())
        self._lines.clear()


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
