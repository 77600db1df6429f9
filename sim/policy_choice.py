"""From the words of a command line to a policy object: `NAME`, `file.py:Class`, `module:Class`, each with arguments.

    vllm    tokenflow[offload=false,interval_s=0.5]    my_policy.py:Mine    my_package.policies:Mine
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from policies import POLICIES
from policies.api import Policy
from traces import BadInput, cells

from .errors import FAULTS

_TRUTH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


@dataclass(frozen=True)
class Choice:
    """A policy, and what to call it."""

    label: str
    policy: Policy
    name: str           #: without its arguments
    arguments: Mapping[str, Any]        #: that were given


@dataclass(frozen=True)
class Argument:
    """One argument of a policy's constructor."""

    name: str
    hint: Any           #: its type
    default: Any        #: `inspect.Parameter.empty` when it has none

    def __str__(self) -> str:
        return self.name if self.default is inspect.Parameter.empty else f"{self.name}={self.default}"


def choose(spec: str, arguments: Sequence[str] = ()) -> Choice:
    """The policy that `spec` names, with the arguments in its brackets and those given ("key=value")."""
    match = re.fullmatch(r"([^\[\]]*)(?:\[([^\[\]]*)\])?", spec.strip())
    if not match or not match[1]:
        raise BadInput("policy", repr(spec), "must be NAME, file.py:Class or module:Class; arguments as in NAME[key=value,...]")
    name, bracketed = match[1].strip(), [part.strip() for part in (match[2] or "").split(",") if part.strip()]
    make, title = _maker(name)
    try:
        given = _typed(name, make, [*bracketed, *arguments])
        policy = make(**given)
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput("policy", name, str(error)) from error
    except FAULTS as error:
        raise BadInput("policy", _place(error, name), f"cannot be made: {type(error).__name__}: {error}") from error
    if not callable(getattr(policy, "plan", None)):
        raise BadInput("policy", name, "has no method plan(view)")
    said = ",".join([*bracketed, *arguments])
    return Choice(title + (f"[{said}]" if said else ""), policy, name, given)


def choose_all(specs: str) -> list[Choice]:
    """The policies of a comma-separated list; commas in brackets belong to the arguments."""
    choices = [choose(spec) for spec in split_specs(specs)]
    labels = [choice.label for choice in choices]
    for label in labels:
        if labels.count(label) > 1:
            raise BadInput("--policies", label, "is listed twice")
    return choices


def arguments_of(make: Callable[..., Policy]) -> list[Argument]:
    """What the constructor of a policy takes; where that hands **arguments on, what the next class's takes."""
    kind: type = make if isinstance(make, type) else type(make())
    changed = None if isinstance(make, type) else make()        # a variant of a class has defaults of its own
    found: dict[str, Argument] = {}
    for each in kind.__mro__:
        if "__init__" not in vars(each):
            continue
        hints, taken = get_type_hints(vars(each)["__init__"]), inspect.signature(vars(each)["__init__"]).parameters.values()
        for p in list(taken)[1:]:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                found.setdefault(p.name, Argument(p.name, hints.get(p.name, type(p.default)), getattr(changed, p.name, p.default)))
        if not any(p.kind == p.VAR_KEYWORD for p in taken):
            break
    return list(found.values())


def from_anywhere(spec: str) -> str:
    """The same, to be understood in another working directory."""
    name, bracket, arguments = spec.strip().partition("[")
    source, colon, attribute = name.rpartition(":")
    return f"{Path(source).resolve()}:{attribute}{bracket}{arguments}" if colon and source.endswith(".py") else spec


def split_specs(specs: str) -> list[str]:
    """Those of a comma-separated list."""
    return [spec.strip() for spec in re.split(r",(?![^\[]*\])", specs)]


# ---- the class

def _maker(name: str) -> tuple[Callable[..., Policy], str]:
    """What makes the policy, and its title."""
    if name in POLICIES:
        return POLICIES[name], name
    source, colon, attribute = name.rpartition(":")
    if not colon and not name.endswith(".py"):
        raise BadInput("policy", repr(name), f"unknown; known are {', '.join(POLICIES)}; your own: file.py:Class or module:Class")
    if not source or not attribute:
        raise BadInput("policy", repr(name), "names no class: must be file.py:Class or module:Class")
    module = _from_file(Path(source)) if source.endswith(".py") else _from_module(source)
    make = getattr(module, attribute, None)
    if make is None:
        found = [each for each, value in vars(module).items() if isinstance(value, type) and hasattr(value, "plan")
                 and value.__module__ == module.__name__]
        raise BadInput("policy", source, f"has no {attribute}; policies in it: {', '.join(found) or 'none'}")
    if not isinstance(make, type):          # calling whatever it is would do whatever it does
        raise BadInput("policy", name, f"is no class but a {type(make).__name__}")
    if not callable(getattr(make, "plan", None)):
        raise BadInput("policy", name, "has no method plan(view)")
    return cast(Callable[..., Policy], make), attribute


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInput("policy", str(path), "there is no such file")
    spec = importlib.util.spec_from_file_location(f"tokenflow_policy_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module             # where dataclasses look up the names in annotations
    with _imported(str(path)):
        spec.loader.exec_module(module)
    return module


def _from_module(name: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())             # as `python -m` does; a console script has it not
    try:
        with _imported(name):
            return importlib.import_module(name)
    finally:
        sys.path.remove(os.getcwd())


@contextmanager
def _imported(what: str) -> Iterator[None]:
    """Whatever importing a user's file raises, in one line with the place in that file."""
    try:
        yield
    except SyntaxError as error:
        raise BadInput("policy", f"{error.filename}:{error.lineno}", f"{type(error).__name__}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        raise BadInput("policy", _place(error, what), f"cannot be imported: {type(error).__name__}: {error}") from error


def _place(error: BaseException, what: str) -> str:
    """file:line of the user's code that raised: in the file `what` if it had a part in it; `what` when no code had."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if frame.filename not in (__file__, importlib.__file__) and not frame.filename.startswith("<")]
    frames = [frame for frame in frames if frame.filename == os.path.abspath(what)] or frames
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else what


# ---- its arguments

def _typed(name: str, make: Callable[..., Policy], given: Sequence[str]) -> dict[str, Any]:
    """"key=value" texts as keyword arguments of the types that the constructor declares."""
    if not given:
        return {}
    known = {argument.name: argument for argument in arguments_of(make)}
    typed: dict[str, Any] = {}
    for text in given:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise BadInput("--policy-arg", repr(text), "must be key=value")
        if key not in known:
            has = ", ".join(map(str, known.values())) or "none"
            raise BadInput("--policy-arg", key, f"{name} has no such argument; it has {has}")
        if key in typed:
            raise BadInput("--policy-arg", key, "is given twice")
        try:
            typed[key] = _value(value, known[key].hint)
        except ValueError as error:
            raise BadInput("--policy-arg", text, f"{error} (default {known[key].default})") from None
    return typed


def _value(text: str, hint: Any) -> Any:
    """The text as a value of this type; ValueError says what it must be."""
    if get_origin(hint) in (Union, UnionType):
        for each in sorted(get_args(hint), key=lambda each: (each is not NoneType, each is str)):
            try:
                return _value(text, each)
            except ValueError as error:
                why = error
        raise why
    if get_origin(hint) is Literal:
        for choice in get_args(hint):
            if text == str(choice):
                return choice
        raise ValueError(f"must be one of {', '.join(map(str, get_args(hint)))}")
    if hint is NoneType and text.lower() in ("none", "null"):
        return None
    if hint is bool and text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    if hint is int or hint is float:
        try:
            number = cells.whole(text) if hint is int else cells.number(text)
        except ValueError:
            raise ValueError(f"must be a {'whole ' if hint is int else ''}number") from None
        if number != number:
            raise ValueError("must not be NaN")
        return number
    if hint is str:
        return text
    names = {NoneType: "none", bool: "true or false"}
    raise ValueError(f"must be {names[hint]}" if hint in names else f"is of a type that no command line gives: {hint}")
