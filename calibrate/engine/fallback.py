"""First come, first served, from whatever state a policy has left behind: what the engine goes on with when its policy fails."""

from __future__ import annotations

import numpy as np

from policies.api import NOBODY, Ints, Plan, Residency, View, blocks_for


class FirstComeFirstServed:
    """Residents decode, then prompts and returns from the host in order of arrival; when blocks run out, the last to arrive is
    computed anew later. Nobody is sent to the host."""

    def plan(self, view: View) -> Plan:
        at, left, bs = view.residency, view.remaining_tokens, view.block_size
        here = (at == Residency.GPU).nonzero()[0].tolist()
        free, seats = view.free_blocks, view.max_seqs - int(np.count_nonzero((at != Residency.NONE) & (at != Residency.HOST)))
        need = {row: int(view.computed_tokens[row] % bs == 0) for row in here if left[row] == 1}
        drop: list[int] = []
        while sum(need.values()) > free:
            victim = here.pop()
            need.pop(victim, None)
            drop.append(victim)
            free, seats = free + self._blocks(view, victim), seats + 1
        decode = list(need)[: view.max_step_tokens]
        free, budget = free - sum(need.values()), view.max_step_tokens - len(decode)
        prefill: list[tuple[int, int]] = []
        load: list[int] = []
        for row in range(len(at)):
            home, computed = int(at[row]), int(view.computed_tokens[row])
            if home > Residency.HOST or (home == Residency.GPU and left[row] == 1) or row in drop:
                continue
            chunk = 0 if home == Residency.HOST else min(int(left[row]), budget)
            blocks = -(-(computed + chunk) // bs) - (-(-computed // bs) if home == Residency.GPU else 0)
            if drop or blocks > free or (home != Residency.GPU and not seats) or not (chunk or home == Residency.HOST):
                break
            free, seats, budget = free - blocks, seats - (home != Residency.GPU), budget - chunk
            if chunk:
                prefill.append((int(view.id[row]), chunk))
            else:
                load.append(row)
        if not decode and not prefill and not load and not drop and here and not (at > Residency.HOST).any():
            drop = here[-1:]            # residents half-way through their prompts hold the blocks
        wake = float(np.nextafter(view.now_s, np.inf)) if drop else np.inf
        return Plan(self._ids(view, decode), tuple(prefill), drop=self._ids(view, drop), load=self._ids(view, load), wake_at_s=wake)

    @staticmethod
    def _ids(view: View, rows: list[int]) -> Ints:
        return view.id[np.array(rows, np.int64)] if rows else NOBODY

    @staticmethod
    def _blocks(view: View, row: int) -> int:
        return int(blocks_for(view.computed_tokens[row : row + 1], view.block_size)[0])
