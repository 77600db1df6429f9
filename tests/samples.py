"""A samples folder as `tokenflow-calibrate profile` writes it, with steps of known coefficients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tables import steps

from sim.models import load_model

COLUMNS = ("phase,batch,tokens_or_context,tokens,kv_tokens,pairs,seqs,latency_ms,forward_ms,schedule_ms,sample_ms,update_ms,"
           "repeats,p10_ms,p90_ms,status")
HOST_S = 1.5e-3


def write_samples(folder: Path, truth: npt.NDArray[np.float64], *, device: str = "cuda", links: bool = True, more: str = "",
                  **changes: Any) -> Path:
    """`more`: further lines of steps.csv; changes: facts of machine.json, left out when None."""
    folder.mkdir()
    table = steps(truth, 0.01, host_s=HOST_S)
    lines = [COLUMNS]
    for phase, batch, each, work, seconds in zip(table.phase, table.batch, table.each, table.work, table.seconds):
        ms = seconds * 1e3
        numbers = ",".join(f"{number:g}" for number in work)
        lines.append(f"{phase},{batch:g},{each:g},{numbers},{ms:.6f},{ms - 1.5:.6f},0.7,0.5,0.3,5,{ms:.6f},{ms:.6f},ok")
    (folder / "steps.csv").write_text("\n".join(lines) + "\n" + more)
    gpu = device == "cuda"
    geometry = load_model("llama3-8b").model_dump()
    facts = {"device": device, "gpu_name": "NVIDIA Test" if gpu else None, "gpu_memory_bytes": 48 * 2**30 if gpu else 0,
             "driver": "1.2", "torch": "2.9", "vllm": "0.32.0", "python": "3.11", "cpu": "Some CPU, 2 cores",
             "date": "2026-01-02", "model": "llama3-8b", "geometry": geometry, "dtype": "bfloat16", "block_size": 16,
             "num_gpu_blocks": 12_345, "max_num_seqs": 200, "max_num_batched_tokens": 3000, "enforce_eager": False,
             "cuda_graphs": True, "async_scheduling": True, "attention_backend": "FLASH_ATTN", "load_format": "dummy",
             "clocks": {}, "engine_args": {"gpu_memory_utilization": 0.9}} | changes
    (folder / "machine.json").write_text(json.dumps({key: value for key, value in facts.items() if value is not None}))
    if links and gpu:
        (folder / "links.csv").write_text(links_csv())
    return folder


def links_csv(h2d: float = 50e9, d2h: float = 40e9, overhead_s: float = 4e-6) -> str:
    """Copies of known rate and overhead; both at once, each direction keeps three quarters."""
    lines = ["direction,layout,block_bytes,blocks,with_compute,gb_per_s,repeats"]
    for size in (4096 << 2 * i for i in range(7)):
        for compute in (0, 1):
            for way, rate in (("h2d", h2d), ("d2h", d2h)):
                alone = size / (overhead_s + size / rate) / 1e9
                lines.append(f"{way},contiguous,{size},64,{compute},{alone * (0.9 if compute else 1):.5f},5")
                lines.append(f"both-{way},contiguous,{size},64,{compute},{0.75 * alone:.5f},5")
    lines.append("h2d,per-layer,2097152,64,0,5.0,5")
    return "\n".join(lines) + "\n"
