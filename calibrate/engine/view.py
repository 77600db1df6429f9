"""The View of real vLLM: one row per unfinished request, out of vLLM's own records and the scheduler's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from policies.api import View

if TYPE_CHECKING:
    from .scheduler import PlanScheduler


def view_of(engine: PlanScheduler, now_s: float) -> View:
    streams, count, host = engine.streams.values(), engine.count, engine.host
    ints = np.array([(s.id, s.request.num_prompt_tokens, s.request.num_output_tokens, s.request.max_tokens, s.computed_tokens,
                      s.residency, s.request.num_preemptions, s.reader) for s in streams], np.int64).T
    floats = np.array([(s.arrival_s, s.host_tokens, s.consumption_rate, s.read_until_s, s.moved_s, s.priority, s.ttft_slo_s,
                        s.tpot_slo_s) for s in streams], np.float64).T
    for table in (ints, floats):
        table.flags.writeable = False
    id, prompt, output, most, computed, residency, preemptions, reader = ints
    arrival_s, copied, rate, read_until_s, moved_s, priority, ttft_slo_s, tpot_slo_s = floats
    return View(now_s, id, arrival_s, prompt, output, most, computed, copied, residency, rate, lambda: read_until_s, preemptions,
                moved_s, priority, ttft_slo_s, tpot_slo_s, reader, engine.gpu_blocks_free(),
                engine.kv_cache_manager.block_pool.num_gpu_blocks - 1,      # one is vLLM's null block
                engine.host_blocks_free(), host.total_blocks, engine.block_size, engine.max_num_active_reqs,
                engine.max_num_scheduled_tokens, host.h2d_free_s, host.d2h_free_s, count.decode_steps, count.prefill_steps,
                count.decode_tokens, count.prefill_tokens, count.decode_s, count.prefill_s, engine.cost)
