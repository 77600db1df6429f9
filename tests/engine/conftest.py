"""These tests need vLLM 0.32.0 for CPUs (calibrate/install_cpu_engine.sh); without it they are skipped."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The module `fake_engine`, which imports vLLM."""
    try:
        version = importlib.import_module("vllm").__version__
    except ImportError as error:
        pytest.skip(f"vllm 0.32.0 cannot be imported: {error}")
    if version.split("+")[0] != "0.32.0":
        pytest.skip(f"needs vllm 0.32.0, found {version}")
    return importlib.import_module("fake_engine")
