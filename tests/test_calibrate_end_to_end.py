"""Closed loops: the simulated TPOT is what the latency model adds up to, and errors are told against the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibrate.end_to_end import end_to_end
from sim.hardware import build_machine
from traces.errors import BadInput

HEAD = "isl,osl,concurrency,ttft_ms,tpot_ms\n"


def table(folder: Path, *lines: str) -> Path:
    path = folder / "loads.csv"
    path.write_text(HEAD + "\n".join(lines) + "\n")
    return path


def test_a_single_client_sees_the_steps_one_by_one(tmp_path: Path) -> None:
    latency = build_machine("rtx4090", "llama3-8b").latency
    isl, osl = 512, 100
    steps = [latency.step_s(1, isl + i, 0, 1) for i in range(osl - 1)]
    tpot_ms, ttft_ms = 1e3 * sum(steps) / len(steps), 1e3 * latency.step_s(isl, 0, isl**2 / 2, 1)
    row = end_to_end("rtx4090", table(tmp_path, f"{isl},{osl},1,{ttft_ms},{tpot_ms}")).rows[0]
    assert row.tpot_error == pytest.approx(0, abs=2e-3)
    assert row.ttft_error == pytest.approx(0, abs=2e-3)


def test_a_full_server_gives_each_token_a_decode_step_and_its_share_of_prefills(tmp_path: Path) -> None:
    """TPOT = decode step of all clients at half of the answer + (clients - 1) prefills per answer, about."""
    latency = build_machine("h200", "llama3-8b").latency
    for isl, osl, clients in ((512, 256, 16), (1024, 256, 64)):
        decode = latency.step_s(clients, clients * (isl + osl / 2), 0, clients)
        prefill = latency.step_s(isl, 0, isl**2 / 2, 1)
        bound_ms = 1e3 * (decode + (clients - 1) * prefill / osl)
        row = end_to_end("h200", table(tmp_path, f"{isl},{osl},{clients},,{bound_ms}"), "llama3-8b").rows[0]
        assert 1e3 * decode * 0.98 < row.model_tpot_ms < bound_ms * 1.05


def test_more_clients_wait_longer(tmp_path: Path) -> None:
    rows = end_to_end("rtx4090", table(tmp_path, *(f"256,64,{clients},,20" for clients in (1, 8, 64)))).rows
    assert rows[0].model_tpot_ms < rows[1].model_tpot_ms < rows[2].model_tpot_ms
    assert rows[0].model_ttft_ms < rows[1].model_ttft_ms < rows[2].model_ttft_ms


def test_errors_are_relative_to_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table(Path(), "128,32,1,,10", "128,32,1,50,40")
    loads = end_to_end("rtx4090", "loads.csv")
    slow, fast = loads.rows
    assert slow.model_tpot_ms == fast.model_tpot_ms
    assert slow.tpot_error == pytest.approx(slow.model_tpot_ms / 10 - 1)
    assert fast.tpot_error == pytest.approx(fast.model_tpot_ms / 40 - 1)
    text = str(loads)
    mean = 50 * (slow.tpot_error + abs(fast.tpot_error))
    assert f"TPOT: MAPE {mean:.1f} %" in text
    assert max(map(len, text.splitlines())) <= 80
    assert text.splitlines()[4].rstrip().endswith("-")      # no TTFT was measured there


def test_it_needs_to_know_the_model(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--model: .*h200 has llama3-8b"):
        end_to_end("h200", table(tmp_path, "128,32,1,,10"))
