"""vLLM v1, first come first served: a step's token budget goes to the running requests first, then to admissions.

Runners are always the earliest requests, so the rows of the View are both of vLLM's queues: the last runner, which is the
victim when blocks run out, is the last row that runs, and a victim's place at the head of the queue is its row. A victim
loses its KV and computes it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from .api import Event, Plan, Residency, View, blocks_for


@dataclass
class Vllm:
    """`reserve_whole_prompt`: admit a request only if its whole prompt fits now (`scheduler_reserve_full_isl`, vLLM's
    default); otherwise if its first chunk does."""

    reserve_whole_prompt: bool = True

    def plan(self, view: View) -> Plan:
        bs, left, computed = view.block_size, view.remaining_tokens, view.computed_tokens
        runners = int(np.count_nonzero(view.residency == Residency.GPU))
        midway = runners > 0 and left[runners - 1] > 1          # only the last runner can be half-way through its prompt
        decodes = min(runners - midway, view.max_step_tokens)
        need = int(np.count_nonzero(computed[:decodes] % bs == 0))
        stay, free = runners, view.free_blocks - need
        if free < 0:
            decodes, stay, free = self._preempt(view, decodes, runners)
        budget = view.max_step_tokens - decodes
        prefill: list[tuple[int, int]] = []
        if midway and stay == runners and budget > 0:
            chunk = min(int(left[stay - 1]), budget)
            extra = _blocks(int(computed[stay - 1]) + chunk, bs) - _blocks(int(computed[stay - 1]), bs)
            if extra > free:
                stay -= 1                                       # it is the last runner: its own victim
            else:
                prefill.append((int(view.id[stay - 1]), chunk))
                budget, free = budget - chunk, free - extra
        seated = runners
        if stay == runners:                                     # vLLM admits nobody in a step that preempted
            for row in range(runners, min(len(left), view.max_seqs)):
                tokens = int(left[row])
                chunk = min(tokens, budget)
                if chunk <= 0 or _blocks(tokens if self.reserve_whole_prompt else chunk, bs) > free:
                    break
                prefill.append((int(view.id[row]), chunk))
                budget, free, seated = budget - chunk, free - _blocks(chunk, bs), seated + 1
        queued = seated < len(left) or stay < runners
        return Plan(decode=view.id[:decodes].copy(), prefill=tuple(prefill), drop=view.id[stay:runners].copy(),
                    until=Event.ANY if queued else Event.ARRIVAL,
                    wake_at_s=float(np.nextafter(view.now_s, inf)) if stay < runners else inf)

    @staticmethod
    def _preempt(view: View, decodes: int, runners: int) -> tuple[int, int, int]:
        """vLLM's walk over the runners: whoever finds no block pops the last. Returns decoders, runners and blocks left."""
        bs, computed, free, row = view.block_size, view.computed_tokens, view.free_blocks, 0
        while row < min(decodes, runners):
            if computed[row] % bs == 0:
                while not free and row < runners:
                    runners -= 1
                    free += int(blocks_for(computed[runners], bs))
                free -= row < runners
            row += 1
        return min(decodes, runners), runners, free


def _blocks(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)
