"""One View, looked at once: who is where, what is free, and the orders collected so far."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from . import costs
from .api import NOBODY, Bools, Floats, Ints, Plan, Residency, View, blocks_for


class Scene:
    """Rows of the View by situation, and the room that is left while orders are added. Rows, not ids, throughout."""

    def __init__(self, view: View) -> None:
        self.view, at = view, view.residency
        self.left, self.slack_s = view.remaining_tokens, view.slack_s
        self.blocks = blocks_for(view.computed_tokens, view.block_size)
        here, nowhere = (at == Residency.GPU).nonzero()[0], (at == Residency.NONE).nonzero()[0]
        whole = self.left[here] == 1
        self.ready, self.midway = here[whole], here[~whole]
        new = (view.preemptions[nowhere] == 0) & (view.output_tokens[nowhere] == 0)
        self.waiting = nowhere[new]                             #: never admitted
        self.dropped = nowhere[~new]                            #: admitted, without KV
        self.admitted = np.ones(len(at), np.bool_)              #: the working set W, marks of shape (n,)
        self.admitted[self.waiting] = False
        self.away = (at == Residency.HOST).nonzero()[0]
        self.leaving, self.landing = (at == Residency.EVICTING).nonzero()[0], (at == Residency.LOADING).nonzero()[0]
        self.evicting, self.loading = len(self.leaving), len(self.landing)
        self.evicting_blocks = int(self.blocks[self.leaving].sum()) if self.evicting else 0
        self.landing_blocks = int(self.blocks[self.landing].sum()) if self.loading else 0
        self.takes: Bools = self.blocks * view.block_size == view.computed_tokens       #: the next token needs a new block
        #: blocks that half-done prefills still need
        self.owed = sum(self.whole_blocks(row) - int(self.blocks[row]) for row in self.midway.tolist())
        #: blocks missing for the next decode step and those prefills
        self.short = int(np.count_nonzero(self.takes[self.ready])) + self.owed - view.free_blocks
        self.free = -self.short
        held = len(self.ready) + len(self.midway) + self.evicting + self.loading
        self.seats = view.max_seqs - held
        self.leave: list[int] = []
        self.leaving_blocks = 0
        self.give_up: list[int] = []        # residents whose KV is dropped, or absent ones whose copy is
        self.load: list[int] = []
        self.prefill: list[tuple[int, int]] = []

    def rows_left(self, ids: list[int]) -> Ints:
        """Rows of those ids that are still unfinished, in the order given."""
        if not ids:
            return NOBODY
        wanted = np.array(ids, np.int64)
        rows = self.view.id.searchsorted(wanted)
        rows[rows == len(self.view.id)] = 0
        left: Ints = rows[self.view.id[rows] == wanted]
        return left

    # ---- room

    def whole_blocks(self, row: int) -> int:
        """Blocks of the request once it is back and has decoded one more token, or of its prompt and the first."""
        return -(-int(self.view.prompt_tokens[row] + self.view.output_tokens[row] + 1) // self.view.block_size)

    def whole_blocks_of(self, rows: Ints) -> Ints:
        """`whole_blocks` of each of these."""
        return blocks_for(self.view.prompt_tokens[rows] + self.view.output_tokens[rows] + 1, self.view.block_size)

    def fits(self, blocks: int, reserve: int = 0) -> bool:
        return self.seats > 0 and blocks + reserve <= self.free

    def take(self, blocks: int) -> None:
        self.free, self.seats = self.free - blocks, self.seats - 1

    # ---- leaving

    def evict(self, row: int) -> None:
        """Offload: the blocks of a complete copy are free at once, the others once it is."""
        self.leave.append(row)
        self.leaving_blocks += int(self.blocks[row])
        if self.view.host_tokens[row] >= self.view.computed_tokens[row]:
            self.free, self.seats = self.free + int(self.blocks[row]), self.seats + 1

    def drop(self, row: int) -> None:
        self.give_up.append(row)
        if self.view.residency[row] == Residency.GPU:
            self.free, self.seats = self.free + int(self.blocks[row]), self.seats + 1

    def staying(self, rows: Ints) -> Ints:
        """Those of `rows` that are not ordered off the GPU."""
        if not self.leave and not self.give_up:
            return rows
        gone = np.zeros(len(self.left), np.bool_)
        gone[self.leave + self.give_up] = True
        return rows[~gone[rows]]

    # ---- prefill

    def prefill_up_to(self, rows: list[int], limit: int, whole: bool) -> None:
        """Prompts, or the rest of them, up to `limit` tokens; the last one may be cut unless they have to be `whole`."""
        bs, room = self.view.block_size, self.free + self.owed
        for row in rows:
            tokens = int(self.left[row])
            if limit <= 0 or (whole and tokens > limit):
                return
            tokens = min(tokens, limit)
            if self.blocks[row]:                                # half done: its blocks are owed, not taken yet
                need = -(-(int(self.view.computed_tokens[row]) + tokens) // bs) - int(self.blocks[row])
                if need > room:
                    return
                room -= need
            self.prefill.append((row, tokens))
            limit -= tokens

    # ---- the plan

    def decoders(self) -> Ints:
        """Everyone ready who stays; when blocks are short, the fullest buffers pause."""
        rows = self.staying(self.ready)
        takers = rows[self.takes[rows]]
        freed = sum(int(self.blocks[row]) for row in self.leave if self.view.host_tokens[row] >= self.view.computed_tokens[row])
        freed += sum(int(self.blocks[row]) for row in self.give_up if self.view.residency[row] == Residency.GPU)
        most = self.view.free_blocks + freed
        if len(takers) <= most:
            return rows
        pause = takers[np.argsort(self.slack_s[takers], kind="stable")[max(most, 0):]]
        keep = np.ones(len(self.left), np.bool_)
        keep[pause] = False
        return rows[keep[rows]]

    def plan(self, *, store: bool, until: int, wake_at_s: float, mixed: bool, wake_after_steps: int = 0) -> Plan:
        """The orders as a Plan. Prefill goes alone unless `mixed`; write-through serves the largest buffers first."""
        view = self.view
        decode = NOBODY if self.prefill and not mixed else self.decoders()
        leave, forget = self._within_host()
        kept = self._store(decode, leave, forget) if store and view.host_total_blocks else NOBODY
        return Plan(decode=view.id[decode], prefill=tuple((int(view.id[row]), tokens) for row, tokens in self.prefill),
                    offload=view.id[leave], drop=view.id[_rows(sorted(self.give_up))], load=view.id[_rows(self.load)],
                    store=view.id[kept], forget=view.id[forget],
                    until=until, wake_at_s=wake_at_s, wake_after_steps=wake_after_steps)

    def _within_host(self) -> tuple[Ints, Ints]:
        """Who leaves, and whose copies are given up to make room for them: residents', the largest context first."""
        leave = _rows(self.leave)
        if not len(leave):
            return leave, NOBODY
        held = self.held
        missing = int((self.blocks[leave] - held[leave]).sum()) - self.view.host_free_blocks - int(held[self.give_up].sum())
        if missing <= 0:
            return leave, NOBODY
        holders = self.staying(np.concatenate((self.ready, self.midway)))
        holders = holders[held[holders] > 0]
        holders = holders[np.argsort(-self.blocks[holders], kind="stable")]
        enough = int(held[holders].cumsum().searchsorted(missing)) + 1
        return leave, np.sort(holders[:enough])

    @cached_property
    def load_s(self) -> Floats:
        """tau_load of each request."""
        return costs.load_s(self.view)

    @cached_property
    def evict_s(self) -> Floats:
        """tau_evict of each request."""
        return costs.evict_s(self.view)

    @cached_property
    def held(self) -> Ints:
        """Host blocks that each request holds."""
        return self.view.host_blocks

    @cached_property
    def host_room(self) -> int:
        """Host blocks that leaving requests can take: free ones and residents' copies."""
        return self.view.host_free_blocks + int(self.held[self.ready].sum()) + int(self.held[self.midway].sum())

    def _store(self, decode: Ints, leave: Ints, forget: Ints) -> Ints:
        view = self.view
        rows = self.staying(np.concatenate((self.ready, self.midway, self.landing, _rows(self.load))))
        if len(forget):
            kept = np.ones(len(self.left), np.bool_)
            kept[forget] = False
            rows = rows[kept[rows]]
        rows = rows[(-self.slack_s[rows] * view.consumption_rate[rows]).argsort(kind="stable")]
        held, room = self.held, view.host_free_blocks
        if len(forget) or self.give_up:
            room += int(held[forget].sum()) + int(held[self.give_up].sum())
        if len(leave):
            room -= int((self.blocks[leave] - held[leave]).sum())
        after = self.blocks[rows] + 1       # room for the tokens of at least the next step
        for row, tokens in self.prefill:
            after[rows == row] += -(-tokens // view.block_size)
        fits = (after - held[rows]).cumsum() <= room
        return rows[fits]


def _rows(rows: list[int]) -> Ints:
    return np.array(rows, np.int64) if rows else NOBODY


def ascending(rows: Ints, key: Floats | Ints) -> Ints:
    """`rows` by `key`, ties by arrival."""
    return rows[key[rows].argsort(kind="stable")]
