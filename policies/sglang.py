"""SGLang 0.4.6: first come first served, prefill before decode, admission that reserves for the outputs to come.

A newcomer is admitted when its prompt and its whole declared output (at most `clip_tokens`) fit beside what the running ones
are still expected to write: their declared remainder times a ratio that falls with every decode step and jumps when memory ran
short after all. Then the request with the fewest outputs is *retracted*: its KV is dropped, it queues anew at the tail.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .api import NOBODY, Event, Ints, Plan, Residency, View


class Batch(NamedTuple):
    """What one iteration of the loop looks at: rows of the View, and the room beside them."""

    running: Ints       #: hold GPU memory and stay
    speakers: Ints      #: those of them that decode
    waiting: Ints       #: may be prefilled, in the order of the queue
    free: int           #: blocks
    seats: int


@dataclass
class SGLang:
    """Defaults are SGLang 0.4.6.post5's (`scheduler.py`, `schedule_policy.py`)."""

    schedule_conservativeness: float = 1.0
    init_ratio: float = 0.7             #: SGLANG_INIT_NEW_TOKEN_RATIO, times the conservativeness, at most 1
    min_ratio_factor: float = 0.14      #: the ratio never falls below this share of its start
    decay_steps: int = 600              #: decode steps from the start of the ratio to its minimum
    clip_tokens: int = 4096             #: SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION
    retract_steps: int = 20             #: decode steps that must fit after a retraction
    max_prefill_tokens: int = 16_384    #: of one prefill batch; a longer prompt goes alone
    chunked_prefill_size: int | None = None     #: None (or, as SGLang's own flag, -1): whole prompts, as far as the step allows
    mixed_chunk: bool = False           #: decodes ride in prefill steps and take their tokens from the chunk; needs a chunk size

    engine_step_tokens = 1 << 20        #: the engine's step limit when the user sets none: the policy bounds its batches itself

    # what SGLang's scheduler remembers between two iterations
    _ratio: float = field(init=False, repr=False, compare=False, default=-1.0)
    _full: bool = field(init=False, repr=False, compare=False, default=False)       # nobody is admitted until the batch shrinks
    _decode_steps: int = field(init=False, repr=False, compare=False, default=0)    # the ratio has fallen for so many
    _running: int = field(init=False, repr=False, compare=False, default=0)         # after the last plan
    _prefilled: bool = field(init=False, repr=False, compare=False, default=False)  # the last plan
    _finished: int = field(init=False, repr=False, compare=False, default=0)        # in the batch until the next decode step
    _cut: int = field(init=False, repr=False, compare=False, default=-1)            # id of the request half-way through its prompt
    _turn: dict[int, int] = field(init=False, repr=False, compare=False, default_factory=dict)      # place in batch or queue, by id
    _turns: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        for name in ("schedule_conservativeness", "init_ratio", "min_ratio_factor", "decay_steps", "clip_tokens",
                     "max_prefill_tokens"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}: must be a finite number above zero")
        if self.retract_steps < 0:
            raise ValueError(f"retract_steps={self.retract_steps}: must not be negative")

    @classmethod
    def chunked(cls, **fields: Any) -> SGLang:
        """SGLang as its server starts by default: prompts in chunks of 8192 tokens, or of what the engine's step allows.

        SGLang 0.4.6 takes 2048 on GPUs below 25 GB; a policy does not know the GPU, so there it is set by hand. Chunks of
        a long queue run back to back: they bound the batch, not the stall of those who decode; `mixed_chunk` lets them ride.
        """
        return cls(**({"chunked_prefill_size": 8192} | fields))

    def plan(self, view: View) -> Plan:
        running = (view.residency == Residency.GPU).nonzero()[0]
        waiting = (view.residency == Residency.NONE).nonzero()[0]
        self._observe(view, running, waiting)
        speakers = self._speakers(view, running)
        if not self._full or not len(speakers) or self._cut >= 0:       # else nobody is admitted, in whatever order
            waiting = self._queue(view, waiting)
        batch = Batch(running, speakers, waiting, view.free_blocks, view.max_seqs - len(running))
        prefill = self._next_prefill(view, batch)
        if prefill:
            self._remember(view, running, prefill)
            return Plan(decode=view.id[batch.speakers] if self._mixes else NOBODY, prefill=prefill)
        stay, gone = batch.speakers, NOBODY
        if _next_blocks(view, stay) > view.free_blocks:
            kept, gone = self._retract(view, running, view.free_blocks)
            stays = np.zeros(len(view.id), np.bool_)
            stays[kept] = True
            stay = stay[stays[stay]]
        again = not self._full and len(waiting) + len(gone) > 0
        self._remember(view, running, (), len(gone))
        return Plan(decode=view.id[stay], drop=view.id[gone], wake_after_steps=int(again),
                    until=Event.FINISH if self._full else Event.FINISH | Event.ARRIVAL)

    def _speakers(self, view: View, running: Ints) -> Ints:
        """Rows that decode when the decodes have their turn."""
        return self._without_cut(view, running)

    def _without_cut(self, view: View, rows: Ints) -> Ints:
        return rows if self._cut < 0 else rows[view.id[rows] != self._cut]

    @property
    def _chunk(self) -> int:
        """Tokens of a prefill step; 0: no limit."""
        return max(self.chunked_prefill_size or 0, 0)

    @property
    def _mixes(self) -> bool:
        return self.mixed_chunk and self._chunk > 0

    # ---- what happened since the last plan

    @property
    def _start(self) -> float:
        return min(self.init_ratio * self.schedule_conservativeness, 1.0)

    def _observe(self, view: View, running: Ints, waiting: Ints) -> None:
        """Lets the ratio fall, and counts who finished."""
        start, least = self._start, self.min_ratio_factor * self._start
        finished = self._running - len(running)
        if not len(running) and len(waiting) and view.arrival_s[waiting].min() == view.now_s:      # it was idle
            self._ratio, self._full, self._finished, self._decode_steps = start, False, 0, view.decode_steps
        elif self._prefilled:                       # who finished never joins the decodes
            self._full = self._full and not finished
        else:
            self._finished += finished
        fallen = max(view.decode_steps - self._decode_steps, 0) * (start - least) / self.decay_steps
        self._ratio = max(self._ratio - fallen, least) if self._ratio >= 0 else start
        self._decode_steps = view.decode_steps

    def _remember(self, view: View, running: Ints, prefill: tuple[tuple[int, int], ...], gone: int = 0) -> None:
        """How many the next View shows unless somebody finishes."""
        ids = np.array([id for id, _ in prefill], np.int64)
        new = int(np.count_nonzero(view.residency[view.rows(ids)] == Residency.NONE))
        self._running, self._prefilled = len(running) + new - gone, len(prefill) > 0

    def _queue(self, view: View, waiting: Ints) -> Ints:
        """These rows by the time they joined the queue, the retracted ones when they were retracted."""
        again = (view.preemptions[waiting] > 0).nonzero()[0]
        if not len(again):
            return waiting
        since, turn, retracted = view.arrival_s[waiting], np.full(len(waiting), -1), waiting[again]
        since[again] = view.moved_s[retracted]
        turn[again] = [self._turn.get(id, -1) for id in view.id[retracted].tolist()]
        queue: Ints = waiting[np.lexsort((turn, since))]
        return queue

    # ---- prefill first

    def _next_prefill(self, view: View, batch: Batch) -> tuple[tuple[int, int], ...]:
        """The next prefill batch; empty when the decodes have their turn."""
        prefill = self._prefill(view, batch)
        if prefill:
            return prefill
        if self._finished:
            self._finished, self._full = 0, False
        if len(batch.speakers):
            return ()
        if not len(batch.running):                  # nothing to run
            self._ratio, self._full = self._start, False
        return self._prefill(view, batch)

    def _prefill(self, view: View, batch: Batch) -> tuple[tuple[int, int], ...]:
        """Who fits now: whoever is half-way through a prompt, then the queue until the first who does not."""
        running, waiting = batch.running, batch.waiting
        if (self._full or not len(waiting)) and self._cut < 0:
            return ()
        seats = batch.seats - self._finished
        if seats <= 0 and self._cut < 0:
            self._full = True
            return ()
        bs, free, left = view.block_size, batch.free, view.remaining_tokens
        riders = batch.speakers if self._mixes else NOBODY
        riding, mixed = _next_blocks(view, riders), len(riders) + self._finished if self._mixes else 0
        if riding > free:
            return ()
        chunk_budget, input_budget = view.max_step_tokens - len(riders), self.max_prefill_tokens - mixed
        if self._chunk:
            chunk_budget = min(chunk_budget, self._chunk - mixed)
        decoders = self._without_cut(view, running)
        reserved = np.minimum(view.max_tokens - view.output_tokens, self.clip_tokens)[decoders].sum()
        room = free * bs - float(reserved) * self._ratio - max(mixed, riding * bs)      # beside what the running may still write
        free -= riding
        prefill: list[tuple[int, int]] = []
        for row in running[view.id[running] == self._cut].tolist():     # a prompt that was cut goes on before anyone else
            computed, tokens = int(view.computed_tokens[row]), int(left[row])
            chunk = min(tokens, chunk_budget)
            taken = _blocks(computed + chunk, bs) - _blocks(computed, bs)
            if chunk <= 0 or taken > free:          # who rides has taken the step, or the blocks
                return ()
            prefill.append((self._cut, chunk))
            chunk_budget, input_budget, free = chunk_budget - chunk, input_budget - chunk, free - taken
            room -= taken * bs
            if chunk == tokens:
                self._cut, room = -1, room - min(int(view.max_tokens[row]), self.clip_tokens)
        for row in waiting.tolist():
            id, tokens, future = int(view.id[row]), int(left[row]), min(int(view.max_tokens[row]), self.clip_tokens)
            paged = _blocks(tokens, bs) * bs
            alone = not len(running) and not self._finished and not prefill     # else one as large as the pool would wait for ever
            if seats <= 0 or (paged + future >= room and not (alone and paged <= free * bs)):
                self._full = True
                break
            if (paged > input_budget and prefill) or chunk_budget <= 0:
                break
            chunk = min(tokens, chunk_budget)
            prefill.append((id, chunk))
            self._take_turn(id)
            if chunk < tokens:
                self._cut, paged, future = id, _blocks(chunk, bs) * bs, 0
            seats, chunk_budget, input_budget = seats - 1, chunk_budget - chunk, input_budget - paged
            room, free = room - paged - future, free - paged // bs
            self._full = self._full or room <= 0
            if room <= 0 or chunk_budget <= 0 or input_budget <= 0:
                break
        if prefill and self._mixes:
            self._finished = 0                      # it is a decode step as well
        return tuple(prefill)

    def _take_turn(self, id: int) -> None:
        self._turn[id] = self._turns
        self._turns += 1

    # ---- when memory runs out

    def _retract(self, view: View, running: Ints, free: int) -> tuple[Ints, Ints]:
        """Who stays and who goes, until some steps fit: fewest outputs first, then longest prompt, then last in the batch."""
        bs, decoders = view.block_size, self._without_cut(view, running)
        turn = np.array([self._turn[id] for id in view.id[decoders].tolist()])
        order = decoders[np.lexsort((turn, view.prompt_tokens[decoders], -view.output_tokens[decoders]))]
        takes = (view.computed_tokens[order] % bs == 0).cumsum()
        stay = len(order)
        while stay > 1:
            stay -= 1
            victim = order[stay]
            self._take_turn(int(view.id[victim]))
            free += _blocks(int(view.computed_tokens[victim]), bs)
            if free * bs >= stay * self.retract_steps and takes[stay - 1] <= free:
                break
        kept, gone = order[:stay], order[stay:][::-1]
        expected = float(view.output_tokens[kept].sum()) + self.retract_steps * stay
        self._ratio = min(1.0, expected / float(view.max_tokens[kept].sum()))
        self._decode_steps += 1             # the ratio does not fall with the step that follows
        self._full = False
        if takes[stay - 1] > free and self._cut >= 0:       # the half-done prompt is in the way of the last one
            gone = np.concatenate((gone, running[view.id[running] == self._cut]))
            self._take_turn(self._cut)
            self._cut = -1
        return np.sort(kept), gone


def _blocks(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)


def _next_blocks(view: View, rows: Ints) -> int:
    """Blocks that one more token of each of these takes."""
    return int(np.count_nonzero(view.computed_tokens[rows] % view.block_size == 0))
