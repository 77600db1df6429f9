"""Built-in profiles are what `tokenflow-calibrate remake` writes from the published tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from tables import published

from calibrate.cli import main
from calibrate.remake import TABLES, refit, remade
from calibrate.solver import PARAMETERS
from sim.hardware import list_hardware, load_hardware
from sim.models import PROFILES


@pytest.mark.parametrize("hardware", list_hardware())
def test_a_shipped_profile_is_what_the_command_writes(hardware: str) -> None:
    """Byte for byte."""
    assert remade(hardware, published()) == PROFILES.joinpath(f"{hardware}.json").read_text()


@pytest.mark.parametrize(("hardware", "model"), sorted(TABLES))
def test_coefficients_are_the_fitted_ones_and_lie_in_their_intervals(hardware: str, model: str) -> None:
    """The file says what the fit found, to the digits it shows."""
    times = load_hardware(hardware).models[model]
    shipped = times.latency.model_dump()
    fit = refit(hardware, model, published())
    assert [shipped[name] for name in PARAMETERS] == pytest.approx(fit.parameters, rel=1e-4)
    assert times.intervals_90 is not None
    for name, value in shipped.items():
        low, high = times.intervals_90[name]
        assert low * 0.995 <= value <= high * 1.005


def test_a_profile_without_a_table_says_that_it_is_an_estimate() -> None:
    fitted = {hardware for hardware, _ in TABLES}
    for hardware in set(list_hardware()) - fitted:
        assert all(times.status.startswith("estimated") for times in load_hardware(hardware).models.values())


def test_the_command_writes_all_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    data = published().parent
    monkeypatch.delenv("TOKENFLOW_DATA")
    assert main(["remake", "-o", str(tmp_path / "new"), "--data", str(data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for hardware, line in zip(list_hardware(), lines):
        assert line.startswith(f"{hardware}.json: as shipped; llama3-8b ")
        assert (tmp_path / f"new/{hardware}.json").read_bytes() == PROFILES.joinpath(f"{hardware}.json").read_bytes()
    assert lines[-1] == str(tmp_path / "new")
