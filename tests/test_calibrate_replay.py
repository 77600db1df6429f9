"""Playing a trace against an engine, and the result that comes of it: with an engine and a clock that are made up."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from made_engine import STEP_S, Made, made, result

from calibrate.replay_play import PATIENCE_S, GaveUp, prompt, readers
from calibrate.replay_result import EMULATED
from sim import simulate
from sim.cli_errors import Ended
from sim.machine import Machine
from sim.records import Fate
from traces import BadInput, make_trace


def test_a_token_is_timed_when_its_step_has_returned() -> None:
    trace = make_trace([0.0, 0.3], 4, [3, 2])
    played = made(trace, Made())
    assert played.times_s == [[STEP_S, 2 * STEP_S, 3 * STEP_S], [4 * STEP_S, 5 * STEP_S]]
    assert played.sent_s.tolist() == [0.0, 0.3]         # in the middle of a step: sent when it arrived, not when it was taken in


def test_arrivals_are_awaited_and_not_before_their_time() -> None:
    engine = Made()
    played = made(make_trace([0.0, 5.0], 4, 1), engine)
    assert played.times_s == [[STEP_S], [5.0 + STEP_S]]
    assert engine.slept_s == pytest.approx(5.0 - STEP_S)


def test_clients_hold_back_what_exceeds_the_concurrency() -> None:
    engine = Made()
    played = made(make_trace([0.0, 0.0, 0.0, 2.0], 4, [2, 2, 2, 2]), engine, max_concurrency=2)
    assert engine.widest == 2
    assert played.sent_s.tolist() == [0.0, 0.0, 2 * STEP_S, 2.0]
    alone = made(make_trace([0.0, 0.05], 4, [1, 1]), Made(), max_concurrency=2)
    assert alone.sent_s.tolist() == [0.0, 0.05]         # one went during the step in which it came, but there had been room


def test_who_cannot_fit_is_rejected_as_in_the_simulator() -> None:
    trace = make_trace([0.0, 0.0, 0.1], [10, 200, 10], [5, 5, 5])
    machine = Machine(simulate("vllm", make_trace([0.0], 1, 1)).machine.latency, 8, 0, 16)      # type: ignore[union-attr]
    ours = result(trace, made(trace, Made(), pool_tokens=128))
    theirs = simulate("vllm", trace, machine)
    assert ours.records.fate.tolist() == theirs.records.fate.tolist() == [Fate.COMPLETED, Fate.REJECTED, Fate.COMPLETED]
    assert ours.records.reason.tolist() == theirs.records.reason.tolist()
    assert ours.requests["sent_s"].tolist() == [0.0, 0.0, 0.1]


def test_who_the_engine_refuses_is_rejected_with_its_reason() -> None:
    engine = Made()
    engine.refused = {1}
    trace = make_trace([0.0, 0.0], 4, 2)
    requests = result(trace, made(trace, engine)).requests
    assert requests["fate"].tolist() == ["completed", "rejected"]
    assert requests["reason"].tolist() == ["", "the prompt is too long"]
    engine.refused = {0, 1}
    with pytest.raises(BadInput, match="no request fits: the prompt is too long"):
        result(trace, made(trace, engine))


def test_an_answer_that_ends_early_is_unfinished() -> None:
    engine = Made()
    engine.short = {0}
    trace = make_trace([0.0, 0.0], 4, 3)
    requests = result(trace, made(trace, engine)).requests
    assert requests["fate"].tolist() == ["unfinished", "completed"]
    assert requests["reason"].tolist() == ["the engine ended it before its last token", ""]
    assert requests["delivered_tokens"].tolist() == [1, 3]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Ended(15), RuntimeError("out of memory")], ids=lambda e: type(e).__name__)
def test_what_was_measured_before_the_end_is_kept(error: BaseException) -> None:
    trace = make_trace([0.0, 0.0, 0.0, 60.0], 4, [2, 9, 3, 1])
    played = made(trace, Made(fails_at=4, error=error))
    assert played.ended is error
    assert played.end_s == 3 * STEP_S
    kept = result(trace, played)
    assert kept.requests["fate"].tolist() == ["completed", "unfinished", "completed", "unfinished"]
    assert kept.requests["delivered_tokens"].tolist() == [2, 3, 3, 0]
    assert np.isnan(kept.requests["sent_s"].tolist()[3])
    assert kept.summary["unfinished"] == 2
    assert kept.summary["duration"] == 3 * STEP_S
    assert set(kept.requests["reason"]) > {""}
    why = {"RuntimeError": "RuntimeError: out of memory", "KeyboardInterrupt": "interrupted", "Ended": "ended by a signal"}
    assert why[type(error).__name__] in kept.requests["reason"][1]


def test_until_leaves_the_rest_unfinished_and_takes_it_off_the_engine() -> None:
    engine = Made()
    trace = make_trace([0.0, 0.0, 9.0], 4, [1, 90, 1])
    played = made(trace, engine, until_s=1.0)
    assert played.ended is None
    assert played.end_s == pytest.approx(1.0)
    assert engine.aborted == [1]
    assert result(trace, played).requests["fate"].tolist() == ["completed", "unfinished", "unfinished"]
    assert made(trace, Made(), until_s=5.0, max_concurrency=1).end_s == pytest.approx(5.0)


def test_an_engine_that_says_nothing_is_given_up() -> None:
    played = made(make_trace([0.0, 50.0], 4, 2), Made(silent=True))
    assert isinstance(played.ended, GaveUp)
    assert played.end_s == pytest.approx(PATIENCE_S, abs=1.0)


def test_prompts_are_the_same_every_time_and_each_their_own() -> None:
    assert prompt(1, 2, 50, 512) == prompt(1, 2, 50, 512)
    assert len({tuple(prompt(seed, id, 50, 512)) for seed in (0, 1) for id in (0, 1)}) == 4
    assert min(prompt(0, 0, 5000, 64)) == 10
    assert max(prompt(0, 0, 5000, 64)) == 63
    engine = Made()
    made(make_trace([0.0, 0.0], [3, 7], 1), engine)
    assert [len(given) for given, _ in engine.told.values()] == [3, 7]


def test_the_engine_is_told_of_each_reader_what_the_trace_gives() -> None:
    trace = make_trace([0.0, 0.0, 0.0], 4, 1, consume_tps=["7", "30/10@200", "5"], priority=[1.0, 2.0, 1.0],
                       ttft_slo_s=[np.nan, 0.5, np.nan], reader=[True, True, False])
    assert readers(trace, 20.0) == [{"consumption_rate": 7.0},
                                    {"consumption_rate": "30/10@200", "priority": 2.0, "ttft_slo_s": 0.5},
                                    {"consumption_rate": 5.0, "reader": 0}]
    assert readers(make_trace([0.0], 4, 1), 12.5) == [{"consumption_rate": 12.5}]


def test_tables_are_the_simulators_own(tmp_path: Path) -> None:
    trace = make_trace([0.0, 0.1, 0.2], [10, 10, 900], [5, 6, 7])
    simulated = simulate("vllm", trace, seed=0)
    ours = result(trace, made(trace, Made(), pool_tokens=800))
    simulated.save(tmp_path / "sim", detailed=True)
    ours.save(tmp_path / "real", detailed=True)
    headers = [next(csv.reader((tmp_path / name / "requests.csv").open())) for name in ("sim", "real")]
    assert headers[0] == headers[1]
    theirs, mine = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("sim", "real"))
    about = {key for key in theirs if key.startswith(("fit_", "latency_", "host_s", "link_", "reserve_", "model_"))}
    assert theirs.keys() - about <= mine.keys()
    assert mine.keys() - theirs.keys() == {"status", "engine", "token_times", "plan_fidelity", "departures", "fallbacks"}
    assert mine["itls"][0] == [STEP_S] * 4
    assert mine["preemptions"] == 0 + 1
    counted = {"loads", "offloads", "decisions", "h2d_bytes", "late_s", "gpu_busy_share", "kv_blocks", "latency_weights_s"}
    assert {mine[key] for key in counted} == {None}
    assert mine["mean_ttft_ms"] == pytest.approx(1e3 * np.nanmean(ours.metrics.ttft_s))


def test_figures_of_an_emulated_link_say_so() -> None:
    trace = make_trace([0.0], 4, 1)
    assert result(trace, made(trace, Made()), emulated=True).summary["status"] == EMULATED == "measured, emulated link"
    assert result(trace, made(trace, Made())).summary["status"] == "measured"


def test_nobody_counts_preemptions_of_a_server_elsewhere() -> None:
    trace = make_trace([0.0, 0.0], 4, 2)
    played = made(trace, Made())
    played.preemptions[:] = np.nan
    kept = result(trace, played)
    assert kept.summary["preemptions"] is None
    assert np.isnan(kept.columns()["preemptions"]).all()
