"""What is known of this machine without torch and vLLM: GPU, driver, clocks, CPU, memory. Unknown is None."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PATIENCE_S = 20.0
_CLOCKS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit", "temperature.gpu",
           "pcie.link.gen.current", "pcie.link.width.current")


@dataclass(frozen=True)
class Gpu:
    name: str
    driver: str
    memory_bytes: int


def gpus() -> list[Gpu]:
    """The NVIDIA GPUs that the driver shows."""
    found = []
    for line in _nvidia_smi("name", "driver_version", "memory.total"):
        name, driver, mib = line
        found.append(Gpu(name, driver, int(float(mib)) << 20 if mib.replace(".", "").isdigit() else 0))
    return found


def clocks(gpu: bool) -> dict[str, str]:
    """Of the first GPU, or of the CPU, as they are now; {} where they cannot be read."""
    if gpu:
        return next((dict(zip(_CLOCKS, line)) for line in _nvidia_smi(*_CLOCKS, units="")), {})
    mhz = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("cpu MHz")]
    return {"cpu_mhz": max(mhz, key=float)} if mhz else {}


def cpu() -> str:
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {usable_cores()} cores"


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_bytes() -> int | None:
    """Memory that a new process can have."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return None


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _nvidia_smi(*names: str, units: str = ",nounits") -> list[list[str]]:
    """A list of values for each GPU; [] where there is no driver."""
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", f"--format=csv,noheader{units}"]
    try:
        ran: Any = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if ran.returncode:
        return []
    lines = [[value.strip() for value in line.split(",")] for line in ran.stdout.splitlines()]
    return [line for line in lines if len(line) == len(names)]
