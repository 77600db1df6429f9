"""What to run next. Pure decisions: numpy only, no clock, no I/O. Start with `api.py`."""

from collections.abc import Callable

from .api import InvalidPlan, Plan, Policy, View, check_plan
from .sglang import SGLang
from .tokenflow import TokenFlow
from .vllm import Vllm

#: name -> what makes the policy; fields of its dataclass are keyword arguments
POLICIES: dict[str, Callable[..., Policy]] = {
    "sglang": SGLang,
    "vllm": Vllm,
    "tokenflow": TokenFlow,
    "tokenflow-paper": TokenFlow.paper,
}

__all__ = ["POLICIES", "InvalidPlan", "Plan", "Policy", "SGLang", "TokenFlow", "View", "Vllm", "check_plan"]
