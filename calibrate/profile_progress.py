"""Says on standard error how far a profiling is: a bar where someone watches, now and then a line where nobody does."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import TaskID

_LINE_EVERY_S = 30.0


class Progress:
    """A `profile_steps.Report`."""

    def __init__(self, name: str, budget_s: float) -> None:
        self._name, self._budget_s = name, budget_s
        self._start_s = self._line_s = time.monotonic()
        self._done_before: int | None = None
        self._bar: Any = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._stop()

    def say(self, line: str) -> None:
        self._stop()
        print(f"profile: {line}", file=sys.stderr, flush=True)

    def begin(self) -> None:
        """The budget runs from now on."""
        self._start_s = self._line_s = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar
            # No thread that redraws: it would take time from what is being measured.
            self._bar = Bar(TextColumn(self._name, markup=False), BarColumn(), MofNCompleteColumn(),
                            TextColumn("points, {task.fields[left]} left, {task.description}", markup=False),
                            console=Console(stderr=True), transient=True, auto_refresh=False)
            self._bar.start()
            self._task = self._bar.add_task("", total=None, left="")

    def __call__(self, done: int, total: int, next_point: str) -> None:
        if self._done_before is None:
            self._done_before = done
        left = left_s(time.monotonic() - self._start_s, done - self._done_before, total - done, self._budget_s)
        clock = f"{int(left) // 60}:{int(left) % 60:02d}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, left=clock, description=next_point)
            self._bar.refresh()
        elif next_point and time.monotonic() - self._line_s >= _LINE_EVERY_S:
            self._line_s = time.monotonic()
            self.say(f"{done} of {total} points, {clock} left")

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def left_s(elapsed_s: float, done: int, to_do: int, budget_s: float) -> float:
    """Until the points are done at the pace so far, or the budget is spent."""
    at_this_pace_s = elapsed_s / done * to_do if done else budget_s
    return max(min(at_this_pace_s, budget_s - elapsed_s), 0.0)
