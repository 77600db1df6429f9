"""What the command lines share: parsing only says what to do; it is done afterwards, so that every error comes out in one place.

That is one line on standard error, and exit code 2.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

import typer

OK, BAD_INPUT, INTERRUPTED = 0, 2, 130

Job = Callable[[], None]

_UsageError: type[Exception] = typer.BadParameter.__bases__[0]      # typer's own click or the one beside it, by version


def run_app(app: typer.Typer, program: str, words: list[str]) -> int:
    """Run a command line, without the program's name; the exit code."""
    try:
        job = app(words or ["--help"], prog_name=program, standalone_mode=False)
    except _UsageError as error:
        return _fail(program, _usage(error), "--debug" in words)
    if not callable(job):
        return int(job or OK)
    return _do(program, job, "--debug" in words)


def _do(program: str, job: Job, debug: bool) -> int:
    from traces import BadInput
    try:
        job()
        if sys.stdout is not None:      # closed before we began
            sys.stdout.flush()
    except BadInput as error:
        return _fail(program, str(error), debug)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:             # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:            # files are read and written elsewhere, with their own errors
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail(program, f"output: {error.filename or 'standard output'}: {error.strerror or error}", debug)
    return OK


def _fail(program: str, line: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"{program}: {line}", file=sys.stderr)
    return BAD_INPUT


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
