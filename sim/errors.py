"""What can go wrong, in one line each. SimPy re-creates exceptions from their args: (what, where, why) is all they hold."""

from __future__ import annotations

import traceback

from traces.errors import BadInput

from .counted import counted

#: what a policy may raise; an interruption from the keyboard is the user's, not the policy's
FAULTS = (Exception, SystemExit, GeneratorExit)


class PolicyError(BadInput):
    """A policy raised, or returned a plan that no engine can carry out."""

    @classmethod
    def at(cls, policy: object, now_s: float, why: str) -> PolicyError:
        return cls(f"policy {type(policy).__name__}", f"at {now_s:.6f} s", why)

    @classmethod
    def raised(cls, policy: object, now_s: float, error: BaseException) -> PolicyError:
        """From an exception that came out of `plan()`: where it was raised, and its text."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return cls(f"policy {type(policy).__name__}", f"{frame.filename}:{frame.lineno} at {now_s:.6f} s",
                   f"{type(error).__name__}: {error}")


class Wedged(BadInput):
    """Requests are left that this policy will never finish."""

    @classmethod
    def at(cls, policy: object, now_s: float, unfinished: int, why: str) -> Wedged:
        return cls(f"policy {type(policy).__name__}", f"at {now_s:.6f} s",
                   f"wedged with {counted(unfinished, 'request')} unfinished: {why}")


class NothingFits(BadInput):
    """Every request of a trace is too long for the machine, or for --max-model-len."""


__all__ = ["FAULTS", "BadInput", "NothingFits", "PolicyError", "Wedged"]
