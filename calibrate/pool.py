"""Which steps a GPU could ever run: those whose KV fits beside the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sim.hardware import Hardware, load_hardware, pool_tokens
from traces import BadInput

from .tables import StepTable


def feasible(table: StepTable, hardware: str | Hardware, model: str | Path) -> StepTable:
    """The rows whose KV fits the pool that this machine has by default."""
    pool = pool_tokens(hardware if isinstance(hardware, Hardware) else load_hardware(hardware), model)
    fits = table.kv_held <= pool
    if not fits.any():
        raise BadInput("table", table.source, f"no row's KV fits the pool of {pool} tokens")
    return table.select(np.flatnonzero(fits))
