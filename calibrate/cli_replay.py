"""`tokenflow-calibrate replay`, `compare` and `validate`: the simulator's predictions held against a real engine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sim.cli_options import DEBUG, Asked, with_flags

from .cli_engine import EngineFlags

replay_app = typer.Typer()


def flag(panel: str, help: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, show_default=False)


_steer, _real, _out = partial(flag, "Policy and host tier"), partial(flag, "Where it runs"), partial(flag, "Output")
MODEL = "tiny or small, for CPUs; one of tokenflow list models; or a directory with a config.json, with weights or without"


@dataclass(frozen=True, kw_only=True)
class TierFlags:
    """The host tier of the engine."""

    host_blocks: Annotated[int | None, _steer("KV blocks in host memory", metavar="N")] = None
    host_kv_tokens: Annotated[int | None, _steer("The same in tokens", metavar="TOKENS")] = None
    emulate_link: Annotated[float | None, _steer(
        "Copies between GPU and host take as long as at so many GB/s each way: for CPUs, where both are the same memory",
        metavar="GB/S")] = None

    def check_tier(self) -> None:
        """BadInput when they contradict each other."""
        from sim.link_choice import link_choice
        from traces import BadInput
        for flag, value in (("--host-blocks", self.host_blocks), ("--host-kv-tokens", self.host_kv_tokens)):
            if value is not None and value < 0:
                raise BadInput(flag, str(value), "must be zero or more")
        if self.host_blocks is not None and self.host_kv_tokens is not None:
            raise BadInput("--host-kv-tokens", str(self.host_kv_tokens), "cannot be given together with --host-blocks")
        if self.host_kv_tokens and getattr(self, "block_size", None) is None:
            raise BadInput("--host-kv-tokens", str(self.host_kv_tokens), "give --block-size as well, or --host-blocks")
        if self.emulate_link is not None:
            link_choice(self.emulate_link, "--emulate-link")

    def host_pool(self, block_size: int, otherwise: int = 0) -> int:
        """In blocks."""
        if self.host_kv_tokens is not None:
            return self.host_kv_tokens // block_size
        return otherwise if self.host_blocks is None else self.host_blocks


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(TierFlags, EngineFlags, Asked):
    policy: Annotated[str | None, _steer(
        "stock: vLLM's own scheduler, left alone; or as tokenflow run --policy takes it (default: tokenflow)",
        metavar="POLICY")] = None
    policy_arg: Annotated[list[str] | None, _steer("An argument of the policy; may be repeated", metavar="KEY=VALUE")] = None
    profile: Annotated[str | None, _steer(
        "Hardware profile: the step times and link rates that the policy believes in", metavar="NAME|PROFILE.json")] = None
    model: Annotated[str | None, _real(MODEL, metavar="NAME|DIR")] = None
    url: Annotated[str | None, _real(
        "An OpenAI-compatible server instead of an engine in this process; tokens are then timed at the client",
        metavar="http://HOST:PORT")] = None
    until: Annotated[float | None, _real("Stop at this second; the rest stays unfinished", metavar="SECOND")] = None
    output_dir: Annotated[str | None, _out(
        "New or empty directory for the results (default: tokenflow-out/replay-N)", "--output-dir", "-o", metavar="DIR")] = None
    save_timeline: Annotated[bool, _out("Also keep timeline.csv: queue, batch and KV memory over time", "--save-timeline")] = False
    json: Annotated[bool, _out("One JSON object on standard output, and nothing else there", "--json")] = False
    debug: Annotated[bool, _out(DEBUG, "--debug")] = False

    @property
    def target(self) -> Path | None:
        return folder(self.output_dir)


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    simulated: Annotated[str, typer.Argument(
        metavar="SIM_DIR", help="A folder that tokenflow run or compare has written", show_default=False)]
    measured: Annotated[list[str], typer.Argument(
        metavar="REAL_DIR...", help="A folder that replay has written, or one of such folders; of several the median counts",
        show_default=False)]
    output_dir: Annotated[str | None, typer.Option(
        "--output-dir", "-o", metavar="DIR", help="New folder for compare.json and compare.html (default: nothing is kept)",
        show_default=False)] = None
    debug: Annotated[bool, typer.Option("--debug", help=DEBUG, show_default=False)] = False


def folder(given: str | None) -> Path | None:
    """What --output-dir names."""
    from traces import BadInput
    if given is not None and not given.strip():
        raise BadInput("--output-dir", repr(given), "names no directory")
    return None if given is None else Path(given)


@replay_app.command("replay")
@with_flags
def replay(options: ReplayOptions) -> int:
    """Play a trace against real vLLM, in real time, and keep what the simulator would; exit code 1 if the engine failed."""
    from .replay import replay
    return replay(options)


@replay_app.command("compare")
@with_flags
def compare(options: CompareOptions) -> None:
    """Hold what was simulated against what was measured, policy by policy."""
    from .compare import compare
    compare(Path(options.simulated), [Path(each) for each in options.measured], folder(options.output_dir))
