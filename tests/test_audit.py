"""The audit notices each kind of contradiction, and says by number which invariant it breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import Ask, Rotate, machine, run_engine

from policies import Vllm
from policies.api import Plan, Residency, View
from sim import simulate
from sim.audit import DECISION, END, RUN, STATE, Audit, InvariantBroken, check_records
from sim.engine import Engine
from sim.records import Fate, Records
from sim.run import Run
from traces import make_trace

pytestmark = pytest.mark.unaudited

ASKS = [Ask(0.02 * i, 40 + 3 * i, 30 + i, 30.0) for i in range(12)]
TIGHT = machine(kv_blocks=20, host_kv_blocks=30, max_seqs=6)


class Tamper:
    """Changes something in the engine, or in a run, just before the audit looks at it."""

    def __init__(self, change: Callable[[Engine, Run], None], after: int = 20) -> None:
        self.audit, self.change, self.after = Audit(), change, after

    def decided(self, engine: Engine, view: View, plan: Plan) -> None:
        self.audit.decided(engine, view, plan)

    def ran(self, engine: Engine, run: Run) -> None:
        if self.audit.runs >= self.after and run.unwritten is not None and len(run.speakers) == len(run.rows) > 1:
            self.change(engine, run)
        self.audit.ran(engine, run)


def set_row(name: str, value: Any, where: Callable[[Engine], int] = lambda engine: 0) -> Callable[[Engine, Run], None]:
    def change(engine: Engine, run: Run) -> None:
        getattr(engine.requests, name)[where(engine)] = value
    return change


def add(owner: str, name: str, amount: Any) -> Callable[[Engine, Run], None]:
    def change(engine: Engine, run: Run) -> None:
        part = run if owner == "run" else engine if owner == "engine" else getattr(engine, owner)
        setattr(part, name, getattr(part, name) + amount)
    return change


def decoder(engine: Engine) -> int:
    return int(engine.decoders.rows[-1])


def waiting(engine: Engine) -> int:
    return int((engine.requests.residency[: engine.requests.n] == Residency.NONE).nonzero()[0][0])


def one_seat(engine: Engine, run: Run) -> None:
    engine.machine = replace(engine.machine, max_seqs=1)


def one_more_row(engine: Engine, run: Run) -> None:
    run.decoding = np.concatenate((run.decoding, run.decoding[:1]))


def one_silent(engine: Engine, run: Run) -> None:
    run.decoding, run.prefilling, run.chunk = run.decoding[:-1], run.decoding[-1:], np.ones(1, np.int64)


@pytest.mark.parametrize(("number", "change"), [
    (1, set_row("id", 99)),
    (1, add("requests", "n", -1)),
    (2, add("kv", "free", 1)),
    (3, add("kv", "host_free", -1)),
    (4, one_seat),
    (5, set_row("computed_tokens", 7, waiting)),
    (6, set_row("host_tokens", -1.0, decoder)),
    (7, set_row("joined", -1, decoder)),
    (8, set_row("output_tokens", 3, waiting)),
    (9, add("count", "decode_steps", 1)),
    (9, add("count", "drops", -1)),
    (9, add("count", "prefill_s", 1e-3)),
    (10, add("engine", "loading", 1)),
    (12, add("h2d", "blocks", 1)),
    (12, add("d2h", "busy_s", 1.0)),
    (12, add("h2d", "free_s", 10.0)),
    (12, add("d2h", "free_s", 10.0)),
    (13, set_row("read_until_s", 1e3, decoder)),
    (13, set_row("consumption_rate", 29.0, decoder)),
    (16, one_more_row),
    (16, one_silent),
    (17, add("run", "start_s", -1.0)),
    (17, add("run", "ends_s", -1e-3)),
    (19, add("run", "start_s", 1e-5)),
    (20, add("run", "unwritten", -1.0)),
])
def test_contradictions(number: int, change: Callable[[Engine, Run], None]) -> None:
    with pytest.raises(InvariantBroken) as caught:
        run_engine(ASKS, Rotate(rich_s=0.2), TIGHT, watch=Tamper(change))       # type: ignore[arg-type]
    assert caught.value.number == number
    assert str(caught.value).startswith(f"invariant {number}: {caught.value.sentence}: ")
    assert "\n" not in str(caught.value)
    assert str(InvariantBroken(*caught.value.args)) == str(caught.value)


def test_a_view_that_can_be_written() -> None:
    class Careless(Vllm):
        def plan(self, view: View) -> Plan:
            view.id.flags.writeable = view.id.base.flags.writeable
            return super().plan(view)
    with pytest.raises(InvariantBroken, match=r"invariant 15.*id is writable"):
        run_engine(ASKS, Careless(), TIGHT, watch=Audit())      # type: ignore[arg-type]


def test_the_end() -> None:
    """Blocks that nobody gave back, and tokens that no segment holds, are found when all are gone."""
    audit = Audit()
    ran = run_engine(ASKS, Vllm(), TIGHT, watch=audit)          # type: ignore[arg-type]
    audit.close()
    assert audit.decisions == ran.engine.count.decisions > 12
    assert audit.runs == ran.engine.count.runs
    ran.engine.clock._segments.pop()
    with pytest.raises(InvariantBroken, match="invariant 22"):
        audit.close()
    ran.engine.kv.free -= 1
    with pytest.raises(InvariantBroken, match="invariant 2:"):
        audit.close()


def records() -> Records:
    return run_engine(ASKS, Vllm(), TIGHT).records


@pytest.mark.parametrize(("number", "change"), [
    (23, lambda r: r.fate.__setitem__(2, Fate.PENDING)),
    (24, lambda r: r.tokens.__setitem__(2, 0)),
    (24, lambda r: r.fate.__setitem__(3, Fate.REJECTED)),
    (25, lambda r: r.tokens.__setitem__(2, r.tokens[2] + 1)),
    (26, lambda r: r.clock_s.__setitem__(30, r.clock_s[10])),
    (27, lambda r: r.first_s.__setitem__(4, 0.0)),
    (27, lambda r: r.last_s.__setitem__(4, 0.0)),
])
def test_records(number: int, change: Callable[[Records], None]) -> None:
    found = records()
    check_records(found, [ask.output for ask in ASKS])
    change(found)
    with pytest.raises(InvariantBroken) as caught:
        check_records(found)
    assert caught.value.number == number


def test_records_against_the_trace() -> None:
    with pytest.raises(InvariantBroken, match="invariant 24"):
        check_records(records(), [ask.output + 1 for ask in ASKS])


def test_numbers_and_sentences_are_each_ones_own() -> None:
    invariants = STATE + DECISION + RUN + END
    assert [invariant.number for invariant in invariants] == list(range(1, len(invariants) + 1))
    assert len({invariant.sentence for invariant in invariants}) == len(invariants)


def test_a_user_may_watch_and_audit() -> None:
    class Count:
        decisions = 0

        def decided(self, *_: object) -> None:
            self.decisions += 1

        def ran(self, *_: object) -> None:
            pass
    count = Count()
    audit = Audit(also=count)       # type: ignore[arg-type]
    result = simulate("tokenflow", make_trace(np.arange(10) * 0.1, 200, 50), TIGHT, watch=audit)
    audit.close()
    check_records(result.records, 50)
    assert count.decisions == audit.decisions == result.counters.decisions
