"""What a program may get wrong when it calls `simulate`, `load_trace` or `make_trace`: one line that names it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sim import simulate
from traces import BadInput, generate, load_trace, make_trace
from traces.pace import Pace


def simulated(trace: Any = None, **options: Any) -> None:
    simulate("vllm", make_trace([0.0, 0.1], 20, 5) if trace is None else trace, **options)


@pytest.mark.parametrize(("call", "line"), [
    (lambda: simulated("trace.csv"), r"trace: 'trace.csv': must be a Trace; traces.load_trace reads one from a file"),
    (lambda: simulated(7), r"trace: 7: must be a Trace"),
    (lambda: simulated(consume_rate=None), r"--consume-rate: None: must be a number from 1e-09"),
    (lambda: simulated(consume_rate="20"), r"--consume-rate: '20': must be a number from 1e-09"),
    (lambda: simulated(consume_rate=1e-310), r"--consume-rate: 1e-310: must be a number from 1e-09"),
    (lambda: simulated(consume_rate=1e300), r"--consume-rate: 1e\+300: must be a number from 1e-09 to 2\*\*53"),
    (lambda: simulated(hardware=None), r"hardware: None: must be the name of a profile or the path of one"),
    (lambda: simulated(hardware=4090), r"hardware: 4090: must be the name"),
    (lambda: simulated(model=None), r"model: None: must be the name of a model or the path of its config"),
    (lambda: simulated(model=b"llama3-8b"), r"model: b'llama3-8b': must be the name"),
    (lambda: simulated(link=np.array([12, 13])), r"link: .*must be oracle, none or .*, got array\(\[12, 13\]\)"),
    (lambda: simulated(link=""), r"link: .*must be oracle, none or .*, got ''"),
    (lambda: simulated(link=None, host_time_ms=1), r"machine options: host_time_ms: unknown; known are mem_fraction, .*host_s"),
    (lambda: simulated(kv_token=1, seats=2), r"machine options: kv_token, seats: unknown; known are"),
    (lambda: load_trace(None), r"trace: None: is not the path of a file"),       # type: ignore[arg-type]
    (lambda: load_trace(b"a.csv"), r"trace: b'a.csv': is not the path of a file"),       # type: ignore[arg-type]
    (lambda: make_trace(0, 1, 1, model={}), r"trace: \(no source\): model: \{\} is not text"),       # type: ignore[arg-type]
    (lambda: make_trace([0, 1], 1, 1, session=["a", {}]), r"session: \{\} is not text"),     # type: ignore[list-item]
    (lambda: make_trace([0, 1], 1, 1, klass=["a", None]), r"klass: None is not text"),       # type: ignore[list-item]
    (lambda: make_trace(0, 1, 1, consume_tps=1e-310), r"consume_tps is 1e-310: it must be at least 1e-09"),
    (lambda: make_trace([0, 1], 1, 1, consume_tps=[2, 1e-10]), r"consume_tps\[1\] is 1e-10: it must be at least 1e-09"),
    (lambda: make_trace([0, 1], 1, 1, consume_tps=[10**400, Pace(2, ((1, 3),))]),
     r"consume_tps\[0\]: 1000\S+ is larger than 2\*\*53"),
    (lambda: make_trace([0, 1], 1, 1, consume_tps=[True, Pace(2, ((1, 3),))]),
     r"consume_tps\[0\]: True must be a number or a pace"),
    (lambda: make_trace([0, 1], 1, 1, consume_tps=[None, "3"]), r"consume_tps\[0\]: None must be a number or a pace"),
    (lambda: generate(2, consume_rate=1e-10), r"--consume-rate: 1e-10: must be a number from 1e-09"),
])
def test_one_line(call: Callable[[], None], line: str) -> None:
    with pytest.raises(BadInput) as caught:
        call()
    said = str(caught.value)
    assert re.search(line, said), said
    assert len(said) < 400


@pytest.mark.parametrize(("tps", "changes", "why"), [
    (20.0, ((2**70, 5.0),), "tokens must be whole numbers from 1 to 2**53"),
    (20.0, ((1.5, 5.0),), "tokens must be whole numbers"),
    (20.0, ((True, 5.0),), "tokens must be whole numbers"),
    (20.0, (("3", 5.0),), "tokens must be whole numbers"),
    (True, ((3, 5.0),), "rates must be numbers"),
    ("20", ((3, 5.0),), "rates must be numbers"),
    (20.0, ((3, None),), "rates must be numbers"),
    (20.0, ((3, 10**400),), "rates must be numbers"),
    (20.0, ((3, 1e-10),), "rates must be numbers from 1e-09 to 2**53"),
    (float("nan"), ((3, 5.0),), "rates must be numbers"),
    (20.0, (3,), "changes must be pairs of a token and a rate"),
    (20.0, None, "changes must be pairs"),
])
def test_a_pace_made_by_a_program(tps: Any, changes: Any, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        Pace(tps, changes)


def test_what_numpy_calls_numbers_will_do() -> None:
    pace = Pace(np.float64(20), ((np.int64(3), np.float64(5)),))    # type: ignore[arg-type]
    trace = make_trace([0, 1], 1, 9, consume_tps=[pace, np.int64(4)])
    assert trace.consume_tps.tolist() == [20.0, 4.0]
    simulated(trace, consume_rate=np.float64(3), link=np.float64(12))
