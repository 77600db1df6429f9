"""Runs a script of this folder in a process of its own, where vLLM may be set up anew, and takes what it tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PATIENCE_S = 400


def told_by(script: str, *arguments: str) -> Any:
    """What the script `tell`s; skips without vLLM."""
    pytest.importorskip("vllm", reason="vllm 0.32.0 cannot be imported")
    path = os.pathsep.join((str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")))
    ran = subprocess.run([sys.executable, str(HERE / script), *arguments], capture_output=True, text=True, timeout=PATIENCE_S,
                         env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
    lines = [line for line in ran.stderr.splitlines() if line.startswith("TOLD")]
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert lines, ran.stderr[-3000:]
    return json.loads(lines[-1].removeprefix("TOLD"))
