"""`tokenflow-calibrate validate`: its flags."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import typer

from sim.cli_options import DEBUG, Asked, with_flags

from .cli_engine import EngineFlags
from .cli_profile import seconds
from .cli_replay import MODEL, TierFlags, flag

validate_app = typer.Typer()

_what, _out = partial(flag, "What is validated"), partial(flag, "Output")


@dataclass(frozen=True, kw_only=True)
class ValidateOptions(TierFlags, EngineFlags, Asked):
    policies: Annotated[str, _what(
        "As tokenflow compare takes them, and stock, vLLM's own scheduler; effects are against the first (default: vllm,tokenflow)",
        metavar="POLICY,...")] = "vllm,tokenflow"
    model: Annotated[str, _what(f"{MODEL} (default: small)", metavar="NAME|DIR")] = "small"
    profile: Annotated[str | None, _what(
        "A profile that is there already, in place of profiling and fitting", metavar="NAME|PROFILE.json")] = None
    budget: Annotated[str, _what("Profile for so long at most (default: 300s)", metavar="TIME")] = "300s"
    repeats: Annotated[int, _what("Replays of each policy; their median counts (default: 1)", metavar="N")] = 1
    output: Annotated[str, _out("New folder for everything", "--output-dir", "-o", metavar="DIR")]
    debug: Annotated[bool, _out(DEBUG, "--debug")] = False

    def seconds(self) -> float:
        return seconds("--budget", self.budget)


@validate_app.command("validate")
@with_flags
def validate(options: ValidateOptions) -> int:
    """Profile, fit, simulate, replay and compare in one go: how far is the simulator off on this machine?

    Without a trace it makes a burst that suits the machine. Exit code 1 if an engine failed.
    """
    from .validate import validate
    return validate(options)
