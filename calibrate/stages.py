"""The stages of something long: each with a process of its own, in one folder, their words in one log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from sim.cli_errors import BAD_INPUT, Ended
from traces import BadInput

LOG = "log.txt"

_ROOT = Path(__file__).parents[1]
_COMMAND = "import sys; from calibrate.cli import main; sys.exit(main(sys.argv[1:]))"
_PATIENCE_S = 120.0     # for a stage that was asked to stop, and keeps what it has


class Failed(RuntimeError):
    """A stage broke down: an engine failed, or its process was killed."""


class Stages:
    """Makes the folder, and removes it again if nothing came of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done = folder, False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.log: TextIO = (folder / LOG).open("w", encoding="utf-8")
        except OSError as error:
            raise BadInput("output directory", str(folder), f"cannot be written: {(error.strerror or '').lower()}") from None
        self._start_s = time.monotonic()

    def say(self, what: str) -> None:
        line = f"validate: {what} ({time.monotonic() - self._start_s:.0f} s so far)"
        print(line, file=sys.stderr, flush=True)
        print(line, file=self.log, flush=True)

    def run(self, name: str, saying: str, words: Sequence[str]) -> None:
        """`tokenflow-calibrate` with these words. BadInput if it refuses them, Failed if it breaks down, with its last line."""
        self.say(saying)
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
        child = subprocess.Popen([sys.executable, "-c", _COMMAND, *words], stdin=subprocess.DEVNULL, stdout=self.log,
                                 stderr=self.log, env=os.environ | {"PYTHONPATH": path})
        try:
            code = child.wait()
        except (KeyboardInterrupt, Ended) as ending:
            if isinstance(ending, Ended):       # an interruption reaches the child from the keyboard
                child.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.wait(_PATIENCE_S)
            raise
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        if code == BAD_INPUT:
            raise BadInput(name, f"exit code {code}", self._last_line())
        self.done = True
        if code:
            raise Failed(f"{name}: exit code {code}: {self._last_line()}")

    def _last_line(self) -> str:
        lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        return last.removeprefix("tokenflow-calibrate: ")[:300]

    def close(self) -> None:
        self.log.close()
        if not self.done:
            (self.folder / LOG).unlink(missing_ok=True)
            with suppress(OSError):
                self.folder.rmdir()
