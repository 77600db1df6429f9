"""How a command line ends, whatever happens: an exit code and, when something went wrong, one line on standard error.

    0 done, or whoever read the output has seen enough    2 bad input, or output that cannot be written
    1 done, but some of it failed: its message says what
    130 interrupted from the keyboard                      129, 143 ended by SIGHUP, SIGTERM
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer

OK, BAD_INPUT, INTERRUPTED = 0, 2, 130

_ENDINGS = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]     # Windows has no SIGHUP


class Ended(BaseException):
    """A signal asks the process to end: raised, so that drafts and children are cleared away. Its argument is the signal."""


class BadUsage(Exception):
    """The command line itself is wrong."""


def run(app: Callable[[], typer.Typer], argv: Sequence[str], prog: str) -> int:
    """Run a command line, its help when it is empty; returns the exit code.

    app: imports the typer app; typer and all that the commands need are imported in here. A command returns an exit code,
    None, or a callable that does what was asked; --debug anywhere shows where in the code an error comes from.
    """
    try:
        with _endings_raised():
            return _done(app, list(argv) or ["--help"], prog, "--debug" in argv)
    except Ended as ended:
        number = signal.Signals(ended.args[0])
        _say(f"{prog}: ended by {number.name}")
        return 128 + number
    except KeyboardInterrupt:
        _say(f"{prog}: interrupted")
        return INTERRUPTED


def _done(app: Callable[[], typer.Typer], words: list[str], prog: str, debug: bool) -> int:
    try:
        job = parsed(app(), words, prog)
        code = job() if callable(job) else job
        if sys.stdout is not None:          # closed before we began
            sys.stdout.flush()
        return int(code or OK)
    except (BrokenPipeError, SystemExit):   # typer and rich exit where their pipe breaks: whoever read it has seen enough
        _drop_output()
        return OK
    except BadUsage as error:
        return _fail(prog, str(error), debug)
    except OSError as error:                # files are read and written elsewhere, with their own errors
        _drop_output()
        return _fail(prog, f"output: {error.filename or 'standard output'}: {error.strerror or error}", debug)
    except ValueError as error:
        from traces import BadInput  # has been imported before, if it is one
        if not isinstance(error, BadInput):
            raise
        return _fail(prog, str(error), debug)


@contextmanager
def _endings_raised() -> Iterator[None]:
    """The first signal that asks the process to end is raised as `Ended`, further ones are ignored: clearing away goes on."""
    mine = threading.current_thread() is threading.main_thread()
    usual = [number for number in _ENDINGS if mine and signal.getsignal(number) == signal.SIG_DFL]      # nohup ignores SIGHUP

    def end(number: int, frame: FrameType | None) -> None:
        for each in usual:
            signal.signal(each, signal.SIG_IGN)
        raise Ended(number)

    try:
        for number in usual:
            signal.signal(number, end)
        yield
    finally:
        for number in usual:
            signal.signal(number, signal.SIG_DFL)


def parsed(app: typer.Typer, words: list[str], prog: str) -> Any:
    """What the command returns."""
    import typer
    usage_error: type[Exception] = typer.BadParameter.__bases__[0]      # typer's own click or the one beside it, by version
    try:
        job = app(words, prog_name=prog, standalone_mode=False)
    except usage_error as error:
        raise BadUsage(_usage(error)) from error
    except typer.Abort:
        raise KeyboardInterrupt from None
    if job == INTERRUPTED:                  # what newer typer makes of an interruption
        raise KeyboardInterrupt
    return job


def _usage(error: Exception) -> str:
    """What is wrong with the command line itself, as `what: where: why`."""
    context, option = getattr(error, "ctx", None), getattr(error, "param", None)
    where = context.command_path if context else "command line"
    what = getattr(error, "option_name", "command line")
    if option is not None:
        what = option.metavar if option.param_type_name == "argument" else "/".join(option.opts)
    why = str(getattr(error, "message", "") or "") or "is required"
    near = getattr(error, "possibilities", None)
    return " ".join(f"{what}: {where}: {why}{f' Did you mean {sorted(near)[0]}?' if near else ''}".split())


def _fail(prog: str, line: str, debug: bool) -> int:
    if debug:
        _say(traceback.format_exc().rstrip())
    _say(f"{prog}: {line}")
    return BAD_INPUT


def _say(line: str) -> None:
    """On standard error, where there is one: nobody can be told that there is none."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


def _drop_output() -> None:
    """What is still to be written to standard output goes nowhere, so that the interpreter's own end raises nothing."""
    with suppress(OSError, ValueError, AttributeError):     # closed, or not a file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
