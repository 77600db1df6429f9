"""A policy with other arguments as a Python file, which every --policy takes: `FILE.py:Tuned`."""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import policies
from policies.api import Policy

from ..policy_choice import choose

CLASS = "Tuned"

_TEXT = '''"""{title}

{about}

    tokenflow run --policy {file}:{name}
    tokenflow-calibrate serve MODEL --policy {file}:{name}
"""

from typing import Any

{base}

#: what was found; every other argument has its default
FOUND: dict[str, Any] = {{
{found}}}


class {name}({parent}):
    """{title}"""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**(FOUND | arguments))
'''


def policy_file(policy: str, arguments: Sequence[str], file: str, title: str, about: Sequence[str]) -> str:
    """The text of `file`: a class `Tuned` with what `arguments` (key=value) change in `policy`, which may still be overridden.

    A policy from a file is imported from where that is now. `about`: lines of what the reader should know.
    """
    choice = choose(policy, arguments)
    base, parent = _base(choice.policy, policy, arguments)
    found = "".join(f"    {name!r}: {value!r},\n" for name, value in _changed(choice.policy, choice.arguments).items())
    plain = [line.replace("\\", "\\\\").replace('"""', "'''") for line in (title, *about)]
    wrapped = (fill(line, 100, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False) for line in plain[1:])
    return _TEXT.format(title=plain[0], about="\n".join(wrapped), file=file, name=CLASS, base=base, parent=parent, found=found)


def _changed(policy: Policy, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that are not what the class itself has: variants such as tokenflow-paper are arguments of their class as well."""
    try:
        default = type(policy)()
    except TypeError:           # it has arguments without a default
        return dict(given)
    if not is_dataclass(policy):
        return dict(given)
    names = [f.name for f in fields(policy) if f.init]
    return {name: getattr(policy, name) for name in names if getattr(policy, name) != getattr(default, name)}


def _base(policy: Policy, spec: str, arguments: Sequence[str]) -> tuple[str, str]:
    """How to import the class, and its name there."""
    kind = type(policy)
    if getattr(policies, kind.__name__, None) is kind:
        return f"from policies import {kind.__name__}", kind.__name__
    source, _, attribute = spec.split("[")[0].strip().rpartition(":")
    if source.endswith(".py"):
        where = f"{Path(source).resolve()}:{attribute}[{','.join(arguments)}]"
        return f"from sim.policy_choice import choose\n\n{attribute}: Any = type(choose({where!r}).policy)", attribute
    assert attribute.isidentifier()
    assert not keyword.iskeyword(attribute)
    return f"from {source} import {attribute}", attribute
