"""One simulation of a study: the flags of `tokenflow run` by name, the command line that does it alone, and its key."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import MISSING, fields
from difflib import SequenceMatcher
from inspect import getsourcefile
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from traces import BadInput, cells

from ..cli_options import RunOptions, flag_name, read_number
from ..code_version import code_version

if TYPE_CHECKING:
    from traces import Trace

    from ..result import Result

#: flags of `tokenflow run` that say where results go, not what is simulated
_ELSEWHERE = ("output_dir", "json", "debug", "save_detailed", "save_timeline", "step_by_step")

FLAGS = tuple(f.name for f in fields(RunOptions) if f.name not in _ELSEWHERE)


def nearest(name: str, known: tuple[str, ...]) -> str:
    """The known name that a mistyped one most likely meant."""
    return max(known, key=lambda each: SequenceMatcher(None, name.lower(), each).ratio())


def setup(where: str, given: Mapping[str, Any]) -> RunOptions:
    """The flags by name (as in Python or on the command line), values as YAML or JSON has them. `where`: for BadInput.

    `policy_arg` is a mapping or a list of key=value; `goodput` a text or a list of them.
    """
    hints, values = get_type_hints(RunOptions), {}
    for said, value in given.items():
        name = str(said).replace("-", "_")
        if name not in FLAGS:
            raise BadInput(where, str(said), f"unknown; did you mean '{nearest(name, FLAGS)}'?")
        if name in values:
            raise BadInput(where, str(said), "is given twice")
        if value is not None:
            values[name] = _value(where, name, value, hints[name])
    return RunOptions(**values)


def _value(where: str, name: str, value: Any, hint: Any) -> Any:
    """As the command line would have given it."""
    if hint == list[str] | None:
        if isinstance(value, Mapping):
            value = [f"{key}={_text(each)}" for key, each in value.items()]
        return [_text(each) for each in (value if isinstance(value, list) else [value])]
    if isinstance(value, list | Mapping):
        raise BadInput(where, name, f"must be one value, not {cells.shown(value)}")
    return read_number(name, _text(value), hint)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def command(options: RunOptions) -> str:
    """The command line that does it alone."""
    words = ["tokenflow", "run"]
    for f in fields(options):
        value = getattr(options, f.name)
        if value == (None if f.default is MISSING else f.default):
            continue
        each = value if isinstance(value, list) else [value]
        words += [flag_name(f.name)] if value is True else [word for one in each for word in (flag_name(f.name), _text(one))]
    return shlex.join(words)


def simulated(options: RunOptions, trace: Trace | None = None, **more: Any) -> Result:
    """Its result. `trace`: its requests, where they are at hand; `more`: arguments of `sim.simulate` in place of its own. What its
    policy prints goes to standard error."""
    from ..policy_choice import choose
    from ..simulate import simulate
    choice = choose(options.policy, options.policy_arg or [])
    with redirect_stdout(sys.stderr):
        return simulate(choice.policy, options.requests() if trace is None else trace, label=choice.label,
                        **options.simulation() | more)


def key(options: RunOptions, trace: Trace) -> str:
    """The same for the same simulation: flags, the contents of the files they name, this program's code."""
    flags = {name: value for name in FLAGS if (value := getattr(options, name)) is not None}
    files: dict[str, str] = {str(name): _of_file(flags[name]) for name in ("hardware", "model") if name in flags}
    content: dict[str, Any] = {"code": code_version(), "flags": flags, "trace": digest(trace),
                               "policy": _of_policy(options.policy), **files}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def digest(trace: Trace) -> str:
    """Of the requests, wherever they come from."""
    digest = hashlib.sha256()
    for f in fields(trace):
        value = getattr(trace, f.name)
        digest.update(f.name.encode())
        if hasattr(value, "dtype"):
            digest.update(repr(value.tolist()).encode() if value.dtype == object else value.tobytes())
    return digest.hexdigest()


def _of_policy(spec: str) -> str:
    """Of a user's policy, the files that it and those it inherits from are in; the package's own are part of the code."""
    from ..policy_choice import choose
    sources = [getsourcefile(each) for each in type(choose(spec).policy).__mro__ if each is not object]
    return " ".join(_of_file(source) for source in dict.fromkeys(sources) if source is not None)


def _of_file(name: str) -> str:
    """Digest of a file's bytes; "" for what is none: a name in the package."""
    file = Path(name)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
