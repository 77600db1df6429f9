"""What a policy is, in a sentence: the first of the text above its code."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable

from policies import POLICIES
from policies.api import Policy


def about(make: Callable[..., Policy]) -> str:
    """Of what makes the policy: a class has it above its module, a variant of a class has its own."""
    text = inspect.getdoc(sys.modules[make.__module__] if isinstance(make, type) else make)
    return _first(text)


def about_result(label: str, policy: Policy) -> str:
    """Of the policy that a table calls so; empty where nobody wrote any."""
    make = POLICIES.get(label.split("[")[0])
    if make is not None:
        return about(make)
    kind = type(policy)
    own = kind.__dict__.get("__doc__") or ""
    made_up = own.startswith(f"{kind.__name__}(")       # a dataclass's signature
    module = sys.modules.get(kind.__module__)
    return _first(own if own and not made_up else module.__doc__ if module else "")


def about_named(label: str, arguments: str = "") -> str:
    """Of the policy that a saved run calls so: what it is, where the package has it, and else with which arguments it ran."""
    make = POLICIES.get(label.split("[")[0])
    if make is not None:
        return about(make)
    return f"a policy of the user's own{f', with {arguments}' if arguments else ''}"


def _first(text: str | None) -> str:
    """The first paragraph, in one line."""
    return " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())
