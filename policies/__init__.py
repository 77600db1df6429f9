"""What to run next. Pure decisions: numpy only, no clock, no I/O. Start with `api.py`."""

from .api import InvalidPlan, Plan, Policy, View, check_plan
from .sglang import SGLang
from .vllm import Vllm

POLICIES: dict[str, type] = {
    "sglang": SGLang,
    "vllm": Vllm,
}

__all__ = ["POLICIES", "InvalidPlan", "Plan", "Policy", "SGLang", "View", "Vllm", "check_plan"]
