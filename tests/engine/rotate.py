"""A test policy that uses every order a plan has: whoever has most to read makes room for whoever has least."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.api import Event, Ints, Plan, Residency, View, blocks_for


@dataclass
class Rotate:
    """Readers with `rich_s` to read go to the host when others wait; `steps` is the tick, in steps.

    recompute_below: KV of fewer tokens on the host is dropped there and computed again, by a second plan at the same instant.
    forget_below: host copies of residents are given up while less than this share of the host pool is free.
    """

    steps: int = 12
    rich_s: float = 0.5
    recompute_below: int = 100
    forget_below: float = 0.2
    until: int = Event.ANY & ~(Event.LANDED | Event.PREFILLED)

    def plan(self, view: View) -> Plan:
        at, bs, left = view.residency, view.block_size, view.remaining_tokens
        by_need = np.argsort(view.slack_s, kind="stable")
        here = by_need[at[by_need] == Residency.GPU]
        away = by_need[at[by_need] == Residency.HOST]
        cheap = away[view.computed_tokens[away] < self.recompute_below]
        if len(cheap):
            decode, _ = self._decoders(view, here)
            return Plan(decode=decode, drop=view.id[cheap], wake_at_s=float(np.nextafter(view.now_s, np.inf)))
        leave, drop = self._leavers(view, here)
        stay = here[~np.isin(here, np.concatenate((leave, drop)))]
        decode, free = self._decoders(view, stay)
        prefill, load, budget = [], [], view.max_step_tokens - len(decode)
        seats = view.max_seqs - int(np.count_nonzero((at != Residency.NONE) & (at != Residency.HOST)))
        for row in (*stay[left[stay] > 1], *by_need[(at[by_need] == Residency.NONE) | (at[by_need] == Residency.HOST)]):
            kv = 0 if at[row] == Residency.NONE else int(view.computed_tokens[row])
            need = _blocks(kv + int(left[row]), bs) - (_blocks(kv, bs) if at[row] == Residency.GPU else 0)
            if need > free or (at[row] != Residency.GPU and not seats):
                break
            chunk = min(int(left[row]), budget)
            if at[row] == Residency.HOST:
                load.append(row)
            elif chunk:
                prefill.append((int(view.id[row]), chunk))
                budget -= chunk
            else:
                continue
            free, seats = free - need, seats - (at[row] != Residency.GPU)
        held = view.host_blocks
        poor = view.host_free_blocks < self.forget_below * view.host_total_blocks
        forget = stay[view.host_tokens[stay] > 0][:2] if poor else stay[:0]
        room = view.host_free_blocks - int((blocks_for(view.computed_tokens[leave], bs) - held[leave]).sum())
        store = stay[::-1][~np.isin(stay[::-1], forget)]
        grows = blocks_for(view.computed_tokens[store] + left[store], bs) - held[store]
        return Plan(decode=decode, prefill=tuple(prefill), offload=view.id[leave], drop=view.id[drop],
                    load=view.id[np.array(load, np.int64)], store=view.id[store[grows.cumsum() <= room]], forget=view.id[forget],
                    until=self.until,
                    wake_after_steps=self.steps if len(decode) or prefill else 0,
                    wake_at_s=np.inf if len(decode) or prefill else view.now_s + 0.05)

    def _leavers(self, view: View, here: Ints) -> tuple[Ints, Ints]:
        """At most two rich readers when anyone waits or memory is short; what the host cannot take is dropped."""
        at, left = view.residency, view.remaining_tokens
        takes = int(np.count_nonzero(view.computed_tokens[here[left[here] == 1]] % view.block_size == 0))
        waiting = int(np.count_nonzero((at == Residency.NONE) | (at == Residency.HOST)))
        if not (takes > view.free_blocks or waiting) or (at == Residency.EVICTING).any() or len(here) < 2:
            return here[:0], here[:0]
        rich = here[::-1][:2]
        rich = rich[(view.slack_s[rich] >= self.rich_s) | (takes > view.free_blocks)]
        need = blocks_for(view.computed_tokens[rich], view.block_size) - view.host_blocks[rich]
        fits = need.cumsum() <= view.host_free_blocks
        return rich[fits], rich[~fits & (takes > view.free_blocks)]

    @staticmethod
    def _decoders(view: View, rows: Ints) -> tuple[Ints, int]:
        """Ids that decode, neediest first as far as blocks go, and the blocks left."""
        ready = rows[view.remaining_tokens[rows] == 1]
        takes = view.computed_tokens[ready] % view.block_size == 0
        fits = ~takes | (takes.cumsum() <= view.free_blocks)
        return np.sort(view.id[ready[fits]]), view.free_blocks - int(np.count_nonzero(takes & fits))


def _blocks(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)
