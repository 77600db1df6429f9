"""What `tokenflow-calibrate fit` and `check` do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sim.hardware import load_hardware
from sim.saving import Draft
from traces import BadInput

from . import write_profile
from .check import check as check_steps
from .check import model_of
from .end_to_end import end_to_end
from .fitting import fit_steps
from .host_time import host_time
from .pool import feasible
from .residual_plots import residual_plots
from .tables import read_steps

if TYPE_CHECKING:
    from .cli_commands import CheckOptions, FitOptions

_OF_TABLES = ("gpu", "memory_gib", "model", "engine", "engine_version", "source", "host_time_ms", "only_feasible")
_REPORT, _STEPS_PLOT = "check.txt", "residuals.png"


def fit(options: FitOptions) -> None:
    """Print the fit and keep it as a profile, its plots beside it; either both files or none."""
    profile, plot = Path(options.output), Path(options.output).with_suffix(".png")
    if profile.suffix != ".json":
        raise BadInput("--output", options.output, "must be named .json")
    for path in (profile, plot):
        if os.path.lexists(path):
            raise BadInput("output file", str(path), "exists; files are never overwritten")
    if not profile.parent.is_dir():
        raise BadInput("output file", str(profile), "cannot be written: no such directory")
    table = read_steps(options.samples)
    samples = Path(options.samples).is_dir()
    _check_origin(options, samples)
    if options.only_feasible:
        machine = write_profile.without_times(write_profile.of_gpu(str(options.gpu), options.memory_gib))
        table = feasible(table, machine, str(options.model))
    given_ms = options.host_time_ms
    fitted = fit_steps(table, host_time(table, None if given_ms is None else given_ms / 1e3))
    origin = write_profile.of_samples(fitted, Path(options.samples)) if samples else write_profile.of_table(
        fitted, str(options.gpu), options.memory_gib, str(options.model), options.engine, options.engine_version, options.source)
    name = options.name or profile.stem
    content = write_profile.as_json(write_profile.profile_of(fitted, origin, name))
    picture = residual_plots(table, fitted.predict_s(table.work), f"{origin.model} on {name}")
    print(fitted)
    _write_both({profile: content.encode(), plot: picture})
    print(f"{profile}: tokenflow run --hardware {profile} --model {origin.model}\n{plot}: residuals")


def check(options: CheckOptions) -> None:
    """Print how far the profile is off, and keep that with its plots where a folder is named."""
    if options.against is None and options.e2e is None:
        raise BadInput("check", options.profile, "give --against TABLE.csv, --e2e TABLE.csv or both")
    hardware = load_hardware(options.profile)
    text, plots = [], {}
    if options.against is not None:
        table = read_steps(options.against)
        if options.only_feasible:
            table = feasible(table, hardware, model_of(hardware, options.model))
        steps = check_steps(hardware, table, options.model, whole_steps=options.whole_steps or None)
        text.append(str(steps))
        if options.output is not None:
            plots[_STEPS_PLOT] = residual_plots(table, steps.predicted_s, steps.heading)
    if options.e2e is not None:
        text.append(str(end_to_end(hardware, options.e2e, options.model)))
    if options.output is not None:
        with Draft(Path(options.output), "check") as draft:
            draft.write(_REPORT, "\n".join(text))
            for name, picture in plots.items():
                draft.write(name, picture)
            draft.publish()
    print("\n".join(text), end="")


def _check_origin(options: FitOptions, samples: bool) -> None:
    """Samples say where they come from; of a table the user must."""
    flags = {name: "--" + name.replace("_", "-") for name in _OF_TABLES}
    if samples:
        for name, flag in flags.items():
            if getattr(options, name) not in (None, False):
                why = f"is for tables; the samples in {options.samples} say it themselves"
                raise BadInput(flag, str(getattr(options, name)), why)
    for name in ("gpu", "model"):
        if not samples and getattr(options, name) is None:
            raise BadInput(flags[name], "(not given)", f"{options.samples} does not say where it was measured: a profile must")


def _write_both(contents: dict[Path, bytes]) -> None:
    """All of the files, or none."""
    partial = {path: path.with_name(f".{path.name}.partial") for path in contents}
    try:
        for path, content in contents.items():
            partial[path].write_bytes(content)
        for path in contents:
            partial[path].rename(path)
    except OSError as error:
        raise BadInput("output file", str(error.filename or ""), f"cannot be written: {(error.strerror or '').lower()}") from None
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
