"""`tokenflow-calibrate doctor` and `profile`: look at this machine, measure it. Flags have vLLM's names."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sim.cli_options import DEBUG, with_flags

machine_app = typer.Typer()

_ENGINE = "Engine (vLLM's arguments; vLLM's defaults where not given)"
_Debug = Annotated[bool, typer.Option("--debug", help=DEBUG, show_default=False)]


def _engine(help: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help, metavar=metavar, rich_help_panel=_ENGINE, show_default=False)


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output", show_default=False)] = False
    debug: _Debug = False


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    model: Annotated[str, typer.Option(
        metavar="NAME_OR_DIR", help="llama3-8b, qwen2.5-7b, qwen2.5-32b or another of tokenflow list models; tiny or small, for "
        "CPUs; or a directory with a config.json, with weights or without", show_default=False)]
    output: Annotated[str, typer.Option("--output", "-o", metavar="DIR", help="Folder for the samples", show_default=False)]
    budget: Annotated[str, typer.Option(
        metavar="TIME", help="Measure so long at most, e.g. 300s or 5m; the engine's start comes before it")] = "300s"
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the samples in DIR", show_default=False)] = False
    dtype: Annotated[str | None, _engine("auto, bfloat16, float16 or float32", "DTYPE")] = None
    max_model_len: Annotated[int | None, _engine("Longest prompt and answer, in tokens", "N")] = None
    max_num_seqs: Annotated[int | None, _engine("Requests in a step at most", "N")] = None
    max_num_batched_tokens: Annotated[int | None, _engine("Tokens in a step at most", "N")] = None
    gpu_memory_utilization: Annotated[float | None, _engine("Share of the memory to use", "SHARE")] = None
    kv_cache_memory_bytes: Annotated[int | None, _engine("Memory for KV", "BYTES")] = None
    num_gpu_blocks_override: Annotated[int | None, _engine("Number of KV blocks", "N")] = None
    block_size: Annotated[int | None, _engine("Tokens in a KV block", "N")] = None
    kv_cache_dtype: Annotated[str | None, _engine("auto, or another type of KV than the model's", "DTYPE")] = None
    attention_backend: Annotated[str | None, _engine("Another than vLLM would choose", "NAME")] = None
    compilation_config: Annotated[str | None, _engine("JSON, as for vllm serve", "JSON")] = None
    enforce_eager: Annotated[bool, typer.Option(
        "--enforce-eager", help="Neither torch.compile nor CUDA graphs: starts sooner, steps take longer",
        rich_help_panel=_ENGINE, show_default=False)] = False
    debug: _Debug = False

    def engine_args(self) -> dict[str, Any]:
        """Those that were given. BadInput if vLLM could do nothing with one."""
        from traces import BadInput
        counts = ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "kv_cache_memory_bytes", "num_gpu_blocks_override",
                  "block_size")
        names = (*counts, "dtype", "gpu_memory_utilization", "kv_cache_dtype", "attention_backend")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        for name in counts:
            if given.get(name, 1) < 1:
                raise BadInput(f"--{name.replace('_', '-')}", str(given[name]), "must be a whole number from 1")
        if not 0 < given.get("gpu_memory_utilization", 1.0) <= 1:
            raise BadInput("--gpu-memory-utilization", str(self.gpu_memory_utilization), "must be a share above 0, at most 1")
        if self.compilation_config is not None:
            given["compilation_config"] = _object("--compilation-config", self.compilation_config)
        return given | ({"enforce_eager": True} if self.enforce_eager else {})


def _object(flag: str, text: str) -> dict[str, Any]:
    import json

    from traces import BadInput
    try:
        found = json.loads(text)
    except ValueError as error:
        raise BadInput(flag, repr(text), f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadInput(flag, repr(text), "is not a JSON object")
    return found


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
