"""Step times on an RTX A6000: matrix products fitted to a published table, the rest estimated; there is no usable table of steps.

The table's times of decode attention imply rates that the GPU's memory does not have, and its small kernels are unfused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from traces.cells import count, positive

from .solver import Floats, solve
from .tables import read_columns

NAME = "a6000"
TABLE = "lss_a6000_llama3.1-8b_gemm.csv"

#: one row of the output head: what a step reads of it
_HEAD_S = 1.406e-3
# norms, activations and rotary embeddings, per step and per token, as on an RTX 4090
_SMALL_S, _SMALL_TOKEN_S = 0.5e-3, 14e-6
# decode attention reads 131,072 bytes per token at 94 % of 768 GB/s; prefill attention at 81 TFLOPS; per request as an RTX 4090
_ESTIMATED = {"kv_token_s": 1.8e-7, "pair_s": 6e-9, "seq_s": 2e-5}


def step_times(tables: Path) -> dict[str, Any]:
    """Coefficients and how they came about, as a profile has them."""
    weights_s, token_s, knee, errors = _matrix_products(tables)
    return {
        "latency": {"weights_s": round(weights_s + _SMALL_S, 5), "token_s": round(token_s + _SMALL_TOKEN_S, 6), **_ESTIMATED,
                    "knee": round(knee, 2)},
        "how_fitted": (
            f"matrix products (32 layers, one row of the head): {1e3 * weights_s:.1f} ms, {1e6 * token_s:.0f} us per token, "
            f"knee {knee:.2f}, mean error {errors.mean():.1f} % and {errors.max():.1f} % at worst on the rows fitted; "
            "0.5 ms and 14 us per token added for norms, activations and rotary embeddings, as on an RTX 4090; decode attention "
            "from 94 % of 768 GB/s, prefill attention from 81 TFLOPS, per request as on an RTX 4090"),
    }


def _matrix_products(tables: Path) -> tuple[float, float, float, Floats]:
    """Seconds of the weights, per token, the knee, and |model / measured - 1| of each row in percent."""
    rows = read_columns(tables / TABLE, {"tokens": count, "model_gemm_ms_32layers": positive})
    tokens = np.array([row["tokens"] for row in rows])
    seconds = np.array([row["model_gemm_ms_32layers"] for row in rows]) / 1e3 + _HEAD_S
    work = np.column_stack([tokens, np.zeros((len(tokens), 3))])
    start = np.array([[seconds.min(), (seconds / tokens).min(), 0, 0, 0, knee] for knee in (1.3, 2.0, 4.0)])
    free = np.array([True, True, False, False, False, True])
    found = solve(np.broadcast_to(seconds, (len(start), len(seconds))), work, start, free, 0.05)
    best = int(found.loss.argmin())
    m, g, _, _, _, p = found.parameters[best]
    return float(m), float(g), float(p), 100 * np.abs(np.expm1(found.residuals[best]))
