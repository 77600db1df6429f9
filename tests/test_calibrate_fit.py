"""Fits: known coefficients come back, intervals hold the truth as often as they say, and what cannot be told is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tables import TRUTHS, steps

from calibrate.bootstrap import intervals
from calibrate.fit_report import doubts
from calibrate.fitting import fit_steps
from calibrate.held_out import designed_rows
from calibrate.host_time import host_time
from calibrate.regions import KNEE, Errors, by_region, failures
from calibrate.solver import KNEE_MAX, PARAMETERS, solve, step_s
from traces.errors import BadInput

M, G, B, Q, R, P = range(6)


def test_the_model_is_the_simulators() -> None:
    table = steps(TRUTHS["slow"])
    fit = fit_steps(table)
    latency = replace(fit.latency, host_s=0.0)
    assert fit.predict_s(table.work) == pytest.approx([latency.step_s(*row) for row in table.work], rel=1e-12)


def test_slopes_are_those_of_the_model() -> None:
    table = steps(TRUTHS["fast"])
    at = TRUTHS["fast"] * 1.1
    free = np.ones(6, dtype=bool)
    slopes = solve(step_s(at, table.work), table.work, at, free, 0.05).jacobian[0]
    for i in range(6):
        up, down = at.copy(), at.copy()
        if i == P:      # sought as 1/p
            h = 1e-6
            up[P], down[P] = 1 / (1 / at[P] + h), 1 / (1 / at[P] - h)
        else:
            h = at[i] * 1e-6
            up[i], down[i] = at[i] + h, at[i] - h
        numeric = np.log(step_s(up, table.work)[0] / step_s(down, table.work)[0]) / (2 * h)
        assert slopes[:, i] == pytest.approx(numeric, rel=1e-4, abs=1e-8 * np.abs(numeric).max())


@pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS)
def test_without_noise_the_coefficients_come_back_exactly(truth: np.ndarray) -> None:
    assert fit_steps(steps(truth)).parameters == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS)
def test_known_coefficients_come_back_through_noise(truth: np.ndarray, seed: int) -> None:
    """Relative to what 3 % noise on these rows leaves: weights and compute are told well, what is a small part of a step badly."""
    found = fit_steps(steps(truth, 0.03, seed)).parameters / truth - 1
    assert np.all(np.abs(found) < [0.02, 0.05, 0.08, 0.8, 0.9, 0.3])


@pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS)
def test_outliers_do_not_pull(truth: np.ndarray) -> None:
    table = steps(truth, 0.01)
    seconds = table.seconds.copy()
    seconds[::12] *= 2
    found = fit_steps(replace(table, seconds=seconds)).parameters / truth - 1
    assert np.all(np.abs(found[[M, G, B]]) < 0.03)


def test_terms_never_turn_negative() -> None:
    """Of a truth without them, noise would make about half of such terms negative."""
    truth = TRUTHS["slow"] * [1, 1, 1, 0, 0, 1]
    found = np.array([fit_steps(steps(truth, 0.03, seed)).parameters for seed in range(10)])
    assert (found >= 0).all()
    assert (found[:, [Q, R]] == 0).any(axis=0).all()
    assert ((found[:, P] >= 1) & (found[:, P] <= KNEE_MAX)).all()


@pytest.mark.slow
@pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS)
def test_intervals_cover_the_truth_as_often_as_they_say(truth: np.ndarray) -> None:
    """90 % intervals over 200 fits: their share lies within 84 to 96 %, for each term two standard errors from its bound."""
    found, inside = [], []
    for seed in range(200):
        fit = fit_steps(steps(truth, 0.03, seed))
        low, high = intervals(fit).T
        found.append(fit.parameters)
        inside.append((low <= truth) & (truth <= high))
    covered = np.mean(inside, axis=0)
    clear = truth - [0, 0, 0, 0, 0, 1] >= 2 * np.std(found, axis=0)
    assert clear[[M, G, B]].all()
    assert np.all((covered >= 0.84) & (covered <= 0.96) | ~clear), dict(zip(PARAMETERS, covered))


def test_intervals_are_the_same_each_time_and_wider_with_more_noise() -> None:
    calm, loud = fit_steps(steps(TRUTHS["slow"], 0.01)), fit_steps(steps(TRUTHS["slow"], 0.05))
    assert np.array_equal(intervals(calm), intervals(calm))
    assert np.all(np.diff(intervals(loud)) > 2 * np.diff(intervals(calm)))


@pytest.mark.parametrize(("phases", "unknown"), [("decode", ["pair_s"]), ("prefill", ["kv_token_s"])])
def test_a_phase_that_is_missing_leaves_its_term_untold(phases: str, unknown: list[str]) -> None:
    fit = fit_steps(steps(TRUTHS["slow"], 0.01, phases=phases))
    assert [name for name, free in zip(PARAMETERS, fit.free) if not free] == unknown
    assert fit.parameters[list(fit.free).index(False)] == 0
    assert any(line.startswith(f"{unknown[0]}: no row") for line in doubts(fit))
    assert np.isnan(intervals(fit)[~fit.free]).all()


def test_one_batch_size_leaves_the_time_per_request_untold() -> None:
    table = steps(TRUTHS["slow"], 0.01)
    fit = fit_steps(table.select(table.batch == 1))
    assert not fit.free[R]
    assert any(line.startswith("seq_s: every row has 1 requests: part of weights_s") for line in doubts(fit))


def test_terms_with_one_effect_are_named_together() -> None:
    table = steps(TRUTHS["slow"], 0.01)
    work = table.work.copy()
    work[:, 2] = 1000 * work[:, 1] + 1e-3 * work[:, 2]       # pairs follow contexts
    said = fit_steps(replace(table, work=work)).unidentified
    assert any("kv_token_s and pair_s" in line and "cannot tell them apart" in line for line in said)


def test_terms_that_are_hardly_told_are_named() -> None:
    table = steps(TRUTHS["slow"], 0.03)
    fit = fit_steps(table.select((table.phase == "decode") | (table.work[:, 0] <= 512)))
    assert "pair_s: hardly told by these rows" in doubts(fit)


def test_too_few_steps_are_refused() -> None:
    table = steps(TRUTHS["slow"])
    with pytest.raises(BadInput, match="table: made: 6 different steps are too few to fit 6 terms: at least 7 are needed"):
        fit_steps(table.select(np.array([0, 5, 10, 20, 40, 60, 60, 0])))


def test_host_time_that_was_measured_is_taken_out_of_the_weights() -> None:
    truth = TRUTHS["fast"]
    table = steps(truth, host_s=2e-3)
    seqs = table.work[:, 3]
    fit = fit_steps(replace(table, host_s=2e-3 + 1e-7 * seqs))
    assert fit.host.value_s == pytest.approx(2e-3, rel=1e-3)
    assert fit.host.low_s <= fit.host.value_s <= fit.host.high_s
    assert fit.parameters[M] == pytest.approx(truth[M], rel=1e-3)
    assert fit.latency.step_s(*table.work[0]) == pytest.approx(table.seconds[0], rel=1e-3)
    assert "shows only their sum" not in str(fit)


def test_a_table_of_kernel_sums_has_host_time_assumed_beside_it() -> None:
    fit = fit_steps(steps(TRUTHS["fast"]))
    assert (fit.host.value_s, fit.host.low_s, fit.host.high_s, fit.host.inside_s) == (0.8e-3, 0.4e-3, 1.2e-3, 0.0)
    assert fit.latency.host_s == 0.8e-3
    assert "host time and weights_s: a step shows only their sum; host time estimated" in " ".join(str(fit).split())


def test_host_time_that_the_user_gives_is_part_of_the_latencies() -> None:
    table = steps(TRUTHS["fast"], host_s=1e-3)
    fit = fit_steps(table, host_time(table, 1e-3))
    assert fit.parameters == pytest.approx(TRUTHS["fast"], rel=1e-4)


def test_held_out_errors_are_the_noise_and_a_little() -> None:
    fit = fit_steps(steps(TRUTHS["slow"], 0.03))
    held = fit.held_out
    assert held.halves is not None
    assert held.designed is not None
    mean_noise = 3 * np.sqrt(2 / np.pi)
    assert mean_noise * 0.8 < held.halves["all"].mape < mean_noise * 1.5
    assert held.designed["all"].rows == len(fit.table) - 12
    assert held.halves["all"].mape > by_region(fit.table, fit.relative)["all"].mape


def test_designed_rows_span_the_table_and_look_at_no_latency() -> None:
    table = steps(TRUTHS["slow"])
    rows = designed_rows(table)
    assert len(set(rows.tolist())) == 12
    for phase in ("prefill", "decode"):
        of = table.phase == phase
        chosen = table.select(rows).phase == phase
        for column in (table.batch, table.each):
            assert column[rows][chosen].min() == column[of].min()
            assert column[rows][chosen].max() == column[of].max()
    assert np.array_equal(rows, designed_rows(replace(table, seconds=table.seconds[::-1])))


def test_errors_are_those_of_the_definition() -> None:
    errors = Errors.of(np.array([0.1, -0.1, 0.3, -0.02]))
    assert errors == Errors(4, pytest.approx(13.0), pytest.approx(7.0), pytest.approx(24.0), pytest.approx(30.0))


def test_where_it_fails_is_named() -> None:
    table = steps(TRUTHS["slow"])
    tokens = table.work[:, 0]
    relative = np.where((tokens >= 128) & (tokens <= 384), 0.1, 0.001)
    worst = int(tokens.argmax())
    relative[worst] = -0.5
    said = failures(table, relative)
    assert any(line.startswith(f"{KNEE}: 10.0 % (bias +10.0") and "waves" in line for line in said)
    assert said[-1].startswith(f"worst rows: {table.row(worst)} -50.0 %")


def test_a_fit_shows_itself() -> None:
    fit = fit_steps(steps(TRUTHS["slow"], 0.03))
    text = str(fit)
    assert max(map(len, text.splitlines())) <= 80
    for said in ("90 % interval", "held out: 10 random halves", "held out: 12 designed rows", KNEE, "where it fails", "MAPE"):
        assert said in text
    assert f"{fit.parameters[M] * 1e3:.4g}" in text
    assert "<pre>" in fit._repr_html_()
