"""Random but legal plans: a policy for tests, it visits corners that no sensible policy does.

Uses `policies.api` alone, so that the same object can steer any engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import numpy as np

from policies.api import HOLDS_BLOCKS, Event, Ints, Plan, Residency, View, blocks_for


@dataclass
class RandomPolicy:
    """Every draw depends on the seed, on how often it was asked and on whole numbers of the view; of the floats it looks at
    `host_tokens` alone, rounded up to blocks: engines whose clocks differ in the last bit get the same plans. `offload`, `store`
    and `forget` switch those orders off."""

    seed: int = 0
    offload: bool = True
    store: bool = True
    forget: bool = True

    _asked: int = field(init=False, repr=False, compare=False, default=0)

    def plan(self, view: View) -> Plan:
        self._asked += 1
        rng = np.random.default_rng([self.seed, self._asked, len(view.id), int(view.id.sum()), int(view.output_tokens.sum()),
                                     int(view.computed_tokens.sum()), int(view.residency.sum())])
        draw = _Draw(view, rng)
        draw.leave(share=0.06, offload=0.7 if self.offload else 0.0, give_up=0.03)
        draw.decode(share=1.0 if rng.random() < 0.8 else 0.1)
        draw.others_come()
        if not draw.moves() and rng.random() < 0.95:
            return _cautious(view)
        if self.store and rng.random() < 0.8:
            draw.copy(share=0.8)
        if self.forget:
            draw.lose_copies(share=0.1)
        return draw.plan()


class _Draw:
    """Orders one after the other, each within what the ones before have left of blocks, seats and tokens."""

    def __init__(self, view: View, rng: np.random.Generator) -> None:
        self.view, self.rng = view, rng
        self.at, self.left = view.residency, view.remaining_tokens.tolist()
        self.kv = view.computed_tokens.tolist()
        self.blocks = blocks_for(view.computed_tokens, view.block_size).tolist()
        self.copies = view.host_blocks.tolist()
        self.free, self.host_free = view.free_blocks, view.host_free_blocks
        self.seats = view.max_seqs - int(np.count_nonzero(HOLDS_BLOCKS[view.residency]))
        self.tokens = view.max_step_tokens
        self.orders: dict[str, list[int]] = {name: [] for name in ("decode", "offload", "drop", "load", "store", "forget")}
        self.chunks: dict[int, int] = {}
        self.named: set[int] = set()

    def some(self, residency: int, share: float, most: int | None = None) -> list[int]:
        """A random part of the rows there that have no order yet, in random order; of the first `most`."""
        rows = (self.at == residency).nonzero()[0][:most]
        return [row for row in self.rng.permutation(rows[self.rng.random(len(rows)) < share]).tolist() if row not in self.named]

    def order(self, name: str, row: int) -> None:
        self.orders[name].append(row)
        self.named.add(row)

    def leave(self, share: float, offload: float, give_up: float) -> None:
        written = (self.view.host_tokens >= self.view.computed_tokens).tolist()
        for row in self.some(Residency.GPU, share):
            missing = self.blocks[row] - self.copies[row]
            goes = self.rng.random() < offload and missing <= self.host_free
            self.host_free -= missing if goes else -self.copies[row]
            if written[row] or not goes:
                self.free, self.seats = self.free + self.blocks[row], self.seats + 1
            self.order("offload" if goes else "drop", row)
        for row in self.some(Residency.HOST, give_up):
            self.host_free += self.copies[row]
            self.order("drop", row)

    def decode(self, share: float) -> None:
        bs = self.view.block_size
        for row in self.some(Residency.GPU, share):
            new = self.kv[row] % bs == 0
            if self.left[row] == 1 and new <= self.free and self.tokens:
                self.free, self.tokens = self.free - new, self.tokens - 1
                self.order("decode", row)

    def others_come(self) -> None:
        """Chunks and loads, as many as there is room for."""
        bs = self.view.block_size
        for row in (*self.some(Residency.GPU, 0.9), *self.some(Residency.NONE, 0.6, most=8)):
            new = self.at[row] == Residency.NONE
            chunk = min(self.left[row] if self.rng.random() < 0.5 else int(self.rng.integers(1, self.left[row] + 1)), self.tokens,
                        self.free * bs + -self.kv[row] % bs)
            if chunk > 0 and self.seats >= new:
                self.free -= -(-(self.kv[row] + chunk) // bs) - self.blocks[row]
                self.seats, self.tokens = self.seats - new, self.tokens - chunk
                self.chunks[row] = chunk
                self.named.add(row)
        for row in self.some(Residency.HOST, 0.7, most=6):
            if self.blocks[row] <= self.free and self.seats:
                self.free, self.seats = self.free - self.blocks[row], self.seats - 1
                self.order("load", row)

    def copy(self, share: float) -> None:
        """Write-through of residents that stay, whatever else they do."""
        going = {*self.orders["offload"], *self.orders["drop"]}
        rows = (self.at == Residency.GPU).nonzero()[0]
        for row in self.rng.permutation(rows[self.rng.random(len(rows)) < share]).tolist():
            after = self.kv[row] + self.chunks.get(row, 0) + (row in self.orders["decode"])
            need = -(-after // self.view.block_size) - self.copies[row]
            if row not in going and need <= self.host_free:
                self.host_free -= need
                self.orders["store"].append(row)

    def lose_copies(self, share: float) -> None:
        busy = {*self.orders["offload"], *self.orders["drop"], *self.orders["store"]}
        rows = (self.at == Residency.GPU).nonzero()[0]
        self.orders["forget"] = [row for row in rows[self.rng.random(len(rows)) < share].tolist() if row not in busy]

    def moves(self) -> bool:
        """Whether anything will happen: a step, or the end of a copy."""
        return bool(self.orders["decode"] or self.chunks or self.orders["load"] or (self.at >= Residency.LOADING).any())

    def plan(self) -> Plan:
        ids: dict[str, Ints] = {name: self.view.id[np.array(rows, np.int64)] for name, rows in self.orders.items()}
        ids["decode"].sort()
        until = Event.ANY if self.rng.random() < 0.3 else int(self.rng.integers(0, Event.ANY + 1))
        kind, soon = self.rng.random(), float(self.view.now_s + self.rng.choice([0.003, 0.02, 0.1, 0.5]))
        steps = int(self.rng.integers(1, 20)) if kind < 0.3 else 0
        if kind > 0.9:
            soon = float(np.nextafter(self.view.now_s, inf))
        elif kind > 0.7 and until == Event.ANY and self.moves():
            soon = inf
        chunks = tuple((int(self.view.id[row]), chunk) for row, chunk in self.chunks.items())
        return Plan(prefill=chunks, until=until, wake_at_s=soon, wake_after_steps=steps, **ids)


def _cautious(view: View) -> Plan:
    """One small legal thing that brings somebody on."""
    at, left, bs = view.residency, view.remaining_tokens, view.block_size
    here = (at == Residency.GPU).nonzero()[0]
    ready = here[left[here] == 1]
    takes = view.computed_tokens[ready] % bs == 0
    ready = ready[~takes | (takes.cumsum() <= view.free_blocks)][: view.max_step_tokens]
    if len(ready):
        return Plan(decode=view.id[ready], wake_after_steps=1)
    room = view.free_blocks * bs + -view.computed_tokens % bs
    midway = here[(left[here] > 1) & (room[here] > 0)]
    if len(midway):
        row = midway[0]
        return Plan(prefill=((int(view.id[row]), int(min(left[row], room[row], view.max_step_tokens))),))
    if (at >= Residency.LOADING).any():
        return Plan()
    if len(here):
        return Plan(drop=view.id[here[-1:]], wake_at_s=float(np.nextafter(view.now_s, inf)))
    away = (at == Residency.HOST).nonzero()[0]
    away = away[blocks_for(view.computed_tokens[away], bs) <= view.free_blocks]
    if len(away):
        return Plan(load=view.id[away[:1]])
    return Plan(prefill=((int(view.id[0]), int(min(left[0], view.free_blocks * bs, view.max_step_tokens))),))
