"""A progress bar for whatever takes longer than two seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE_S = 2.0
_REFRESH_S = 0.25


class Bar:
    """On standard error, and only where someone watches it."""

    def __init__(self, wanted: bool, of: str = "requests") -> None:
        """`of`: what is counted. Of requests it shows the seconds simulated, of anything else the time left."""
        self._wanted = wanted and sys.stderr is not None and sys.stderr.isatty()
        self._next_s = time.monotonic() + _PATIENCE_S
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._what = ""
        self._of = of

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def begin(self, what: str) -> None:
        """What is being done from now on."""
        self._what = what
        if self._progress is not None and self._task is not None:
            self._progress.reset(self._task, description=what, total=None)

    def __call__(self, done: int, total: int, simulated_s: float) -> None:
        """A `sim.simulate.Progress`."""
        if not self._wanted or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _REFRESH_S
        if self._progress is None:
            self._progress = self._started()
            self._task = self._progress.add_task(self._what, total=total, completed=done, counted="")
        assert self._task is not None
        counted = self._of + (f", {simulated_s:,.0f} s simulated" if self._of == "requests" else "")
        self._progress.update(self._task, completed=done, total=total, counted=counted)
        self._progress.refresh()

    def _started(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        left = [] if self._of == "requests" else [TimeRemainingColumn(), TextColumn("left")]
        progress = Progress(TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                            TextColumn("{task.fields[counted]}"), *left, console=Console(stderr=True), transient=True,
                            auto_refresh=False)     # a thread that redraws would take CPU time from what is being measured
        progress.start()
        return progress
