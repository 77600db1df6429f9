"""The model machine: simulate how an LLM engine serves streaming readers under a scheduling policy.

    from sim import compare, simulate
    from traces import generate
    trace = generate(80, input_len="normal:1024:205", output_len="normal:2048:410")
    result = simulate("tokenflow", trace, hardware="rtx4090", model="llama3-8b")
    result.summary["mean_ttft_ms"], result.requests, result.token_times_s(0)
    compare(["vllm", "tokenflow"], trace).plot_ttft()

Names are imported when they are first used: `tokenflow --help` should not wait for numpy.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compare import Comparison, compare
    from .errors import BadInput, PolicyError, Wedged
    from .hardware import build_machine, list_hardware, list_models, load_hardware
    from .machine import Machine
    from .records import Fate, Records
    from .result import Result
    from .simulate import simulate
    from .study.result import StudyResult, load_study
    from .study.sweep import run_study

_HOME = {
    "Comparison": "compare", "compare": "compare",
    "BadInput": "errors", "PolicyError": "errors", "Wedged": "errors",
    "build_machine": "hardware", "list_hardware": "hardware", "list_models": "hardware", "load_hardware": "hardware",
    "Machine": "machine", "Fate": "records", "Records": "records", "Result": "result", "simulate": "simulate",
    "StudyResult": "study.result", "load_study": "study.result", "run_study": "study.sweep",
}

__all__ = ["BadInput", "Comparison", "Fate", "Machine", "PolicyError", "Records", "Result", "StudyResult", "Wedged",
           "build_machine", "compare", "list_hardware", "list_models", "load_hardware", "load_study", "run_study", "simulate"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """`sim.simulate` and `sim.compare` are functions, even though importing a file of that name binds the module here."""

    def __setattr__(self, name: str, value: Any) -> None:
        is_file = name in ("compare", "simulate") and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if is_file else value)


sys.modules[__name__].__class__ = _Package
