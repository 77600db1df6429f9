"""`tokenflow-calibrate doctor` and `profile`: look at this machine, measure it. Flags have vLLM's names."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sim.cli_options import DEBUG, with_flags

from .cli_engine import EngineFlags

machine_app = typer.Typer()

_Debug = Annotated[bool, typer.Option("--debug", help=DEBUG, show_default=False)]


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output", show_default=False)] = False
    debug: _Debug = False


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(EngineFlags):
    model: Annotated[str, typer.Option(
        metavar="NAME_OR_DIR", help="llama3-8b, qwen2.5-7b, qwen2.5-32b or another of tokenflow list models; tiny or small, for "
        "CPUs; or a directory with a config.json, with weights or without", show_default=False)]
    output: Annotated[str, typer.Option("--output", "-o", metavar="DIR", help="Folder for the samples", show_default=False)]
    budget: Annotated[str, typer.Option(
        metavar="TIME", help="Measure so long at most, e.g. 300s or 5m; the engine's start comes before it")] = "300s"
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the samples in DIR", show_default=False)] = False
    debug: _Debug = False


def seconds(flag: str, text: str) -> float:
    """`300`, `300s`, `5m` or `1.5h`."""
    from traces import BadInput
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(s|m|h)?", text.strip())
    found = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"] if match else math.nan
    if not 0 < found < math.inf:
        raise BadInput(flag, repr(text), "must be a time above 0, such as 300s or 5m")
    return found


@machine_app.command("doctor")
@with_flags
def doctor(options: DoctorOptions) -> int:
    """Show what is here to calibrate with, what is wrong with it, and what to install; exit code 1 if something is wrong."""
    from . import doctor
    findings = doctor.examine()
    print(doctor.as_json(findings) if options.json else doctor.as_text(findings))
    return 1 if findings.wrong else 0


@machine_app.command("profile")
@with_flags
def profile(options: ProfileOptions) -> None:
    """Measure engine steps and links on this machine, with real vLLM, into a folder of samples."""
    from .profile import profile
    profile(options.model, Path(options.output), seconds("--budget", options.budget), options.resume, options.engine_args())
