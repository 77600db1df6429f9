"""Step tables with known coefficients, and where published ones are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from calibrate.solver import step_s
from calibrate.tables import StepTable

Floats = npt.NDArray[np.float64]

#: weights_s, token_s, kv_token_s, pair_s, seq_s, knee; about an RTX 4090 and an H200, both with an 8B model
TRUTHS = {"slow": np.array([17.1e-3, 91e-6, 154e-9, 3.4e-9, 19.6e-6, 2.68]),
          "fast": np.array([4.98e-3, 18.5e-6, 28.4e-9, 0.93e-9, 3.0e-6, 1.77])}


def steps(truth: Floats, noise: float = 0.0, seed: int = 0, phases: str = "prefill decode", host_s: float = 0.0) -> StepTable:
    """A grid of steps that take what `truth` says, each off by a normal share of itself."""
    rows = [("prefill", batch, each) for batch in (1, 2, 4, 8) for each in (128, 256, 512, 1024, 2048, 4096)
            if batch * each <= 16_384]
    rows += [("decode", batch, each) for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256) for each in (128, 512, 1024, 2048, 4096, 8192)
             if batch * each <= 300_000]
    rows = [row for row in rows if row[0] in phases.split()]
    phase = np.array([row[0] for row in rows])
    batch, each = np.array([row[1:] for row in rows], dtype=float).T
    prefill = phase == "prefill"
    work = np.column_stack([np.where(prefill, batch * each, batch), np.where(prefill, 0, batch * each),
                            np.where(prefill, batch * each**2 / 2, 0), batch])
    exact = step_s(truth, work)[0] + host_s
    seconds = exact * (1 + noise * np.random.default_rng(seed).standard_normal(len(rows)))
    return StepTable("made", phase, batch, each, work, seconds, None, {})


def write_table(table: StepTable, path: Path) -> Path:
    """As somebody else would have made it."""
    lines = [f"{phase},{batch:.0f},{each:.0f},{seconds * 1e3:.5f}"
             for phase, batch, each, seconds in zip(table.phase, table.batch, table.each, table.seconds)]
    path.write_text("\n".join(["phase,batch,tokens_or_context,latency_ms", *lines]) + "\n")
    return path


def published() -> Path:
    """The folder of published step tables; the test that asks is skipped without."""
    root = os.environ.get("TOKENFLOW_DATA")
    if not root:
        pytest.skip("TOKENFLOW_DATA is not set: the published latency tables are not part of the repository")
    return Path(root) / "latency"
