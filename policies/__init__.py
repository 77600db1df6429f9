"""What to run next. Pure decisions: numpy only, no clock, no I/O. Start with `api.py`."""

from collections.abc import Callable

from .andes import Andes
from .andes_code import AndesCode
from .api import InvalidPlan, Plan, Policy, View, check_plan
from .fastserve import FastServe
from .fcfs_offload import FcfsOffload
from .least_slack import LeastSlack
from .ratecap import RateCap
from .sglang import SGLang
from .tokenflow import TokenFlow
from .vllm import Vllm
from .vtc import Vtc

#: name -> what makes the policy; fields of its dataclass are keyword arguments
POLICIES: dict[str, Callable[..., Policy]] = {
    "sglang": SGLang,
    "vllm": Vllm,
    "tokenflow": TokenFlow,
    "tokenflow-paper": TokenFlow.paper,
    "sglang-chunked": SGLang.chunked,
    "sglang-ratecap": RateCap,
    "fcfs-offload": FcfsOffload,
    "least-slack": LeastSlack,
    "andes": Andes,
    "andes-code": AndesCode,
    "fastserve": FastServe,
    "vtc": Vtc,
}

__all__ = ["POLICIES", "Andes", "AndesCode", "FastServe", "FcfsOffload", "InvalidPlan", "LeastSlack", "Plan", "Policy", "RateCap",
           "SGLang", "TokenFlow", "View", "Vllm", "Vtc", "check_plan"]
