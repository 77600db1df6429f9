"""`vllm bench sweep plot` and `plot_pareto`, unmodified, on the directory that `tokenflow sweep` leaves."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from sim.cli import main

pytest.importorskip("vllm", reason="vllm 0.32.0 cannot be imported")
pytest.importorskip("seaborn", reason="vllm bench sweep plots with seaborn")

pytestmark = pytest.mark.engine

STUDY = """
base: {num_prompts: 30, input_len: normal:200:40, output_len: normal:300:60, kv_tokens: 6000}
axes:
  policy: [vllm, sglang, tokenflow]
  load: {slow: {request_rate: 1}, quick: {request_rate: 4}, burst: {arrival: burst}}
seeds: 3
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "s.yaml").write_text(STUDY)
    assert main(["sweep", str(folder / "s.yaml"), "-o", str(folder / "out"), "--jobs", "1"]) == 0
    return folder / "out"


def said(*words: str) -> str:
    """What `vllm bench sweep` prints."""
    vllm = Path(sys.executable).with_name("vllm")
    command = [str(vllm) if vllm.exists() else shutil.which("vllm") or "vllm", "bench", "sweep", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def is_picture(file: Path) -> bool:
    width, height = struct.unpack(">II", file.read_bytes()[16:24])
    return bool(width > 300 and height > 300)


def test_plot(study: Path) -> None:
    said("plot", str(study), "--var-x", "max_concurrent_requests", "--var-y", "p99_ttft_ms", "--curve-by", "policy",
         "--col-by", "load", "--fig-name", "TTFT")
    assert is_picture(study / "TTFT.png")


def test_a_figure_for_each_load(study: Path) -> None:
    said("plot", str(study), "--var-x", "output_throughput", "--var-y", "mean_rebuffer_s", "--curve-by", "policy",
         "--fig-by", "load")
    assert all(is_picture(study / f"FIGURE-load={load}.png") for load in ("slow", "quick", "burst"))


def test_plot_pareto(study: Path) -> None:
    out = said("plot_pareto", str(study), "--label-by", "policy,load")
    assert re.search(r"Plotted 27 points; Pareto frontier size: [1-9]", out), out
    assert "Skipped" not in out
    assert is_picture(study / "pareto" / "PARETO.png")


def test_plot_pareto_of_users_by_request_rate(study: Path) -> None:
    """Bursts have none, and are counted by those in flight."""
    out = said("plot_pareto", str(study), "--user-count-var", "request_rate")
    assert "Plotted 27 points" in out, out
