"""SGLang 0.4.6: first come first served, prefill before decode, admission that reserves for the outputs to come.

A newcomer is admitted when its prompt and its whole declared output (at most `clip_tokens`) fit beside what the running ones
are still expected to write: their declared remainder times a ratio that falls with every decode step and jumps when memory ran
short after all. Then the request with the fewest outputs is *retracted*: its KV is dropped, it queues anew at the tail.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .api import NOBODY, Event, Ints, Plan, Residency, View, blocks_for


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
    chunked_prefill_size: int | None = None     #: None: whole prompts, as far as the engine's step allows

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

    def plan(self, view: View) -> Plan:
        running = (view.residency == Residency.GPU).nonzero()[0]
        waiting = self._queue(view)
        self._observe(view, running, waiting)
        prefill = self._prefill(view, running, waiting)
        if self._finished and not prefill:
            self._finished, self._full = 0, False
        if not prefill and not len(running):        # nothing to run
            self._ratio, self._full = self._start, False
            prefill = self._prefill(view, running, waiting)
        if prefill:
            ids = np.array([id for id, _ in prefill], np.int64)
            self._running = len(running) + int(np.count_nonzero(view.residency[view.rows(ids)] == Residency.NONE))
            self._prefilled = True
            return Plan(prefill=prefill)
        stay, gone = running, NOBODY
        if int(np.count_nonzero(view.computed_tokens[running] % view.block_size == 0)) > view.free_blocks:
            stay, gone = self._retract(view, running)
        again = not self._full and len(waiting) + len(gone) > 0
        self._running, self._prefilled = len(stay), False
        return Plan(decode=view.id[stay], drop=view.id[gone], wake_after_steps=int(again),
                    until=Event.FINISH if self._full else Event.FINISH | Event.ARRIVAL)

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
        fallen = (view.decode_steps - self._decode_steps) * (start - least) / self.decay_steps
        self._ratio = max(self._ratio - fallen, least) if self._ratio >= 0 else start
        self._decode_steps = view.decode_steps

    def _queue(self, view: View) -> Ints:
        """Rows that wait: by the time they joined the queue, the retracted ones when they were retracted."""
        waiting: Ints = (view.residency == Residency.NONE).nonzero()[0]
        again = view.preemptions[waiting] > 0
        if not again.any():
            return waiting
        since = np.where(again, view.moved_s[waiting], view.arrival_s[waiting])
        turn = np.where(again, [self._turn.get(id, -1) for id in view.id[waiting].tolist()], -1)
        queue: Ints = waiting[np.lexsort((turn, since))]
        return queue

    # ---- prefill first

    def _prefill(self, view: View, running: Ints, waiting: Ints) -> tuple[tuple[int, int], ...]:
        """The next prefill batch; empty when the decodes have their turn."""
        if (self._full or not len(waiting)) and self._cut < 0:
            return ()
        seats = view.max_seqs - len(running) - self._finished
        if seats <= 0 and self._cut < 0:
            self._full = True
            return ()
        bs, free, left = view.block_size, view.free_blocks, view.remaining_tokens
        chunk_budget = min(self.chunked_prefill_size or view.max_step_tokens, view.max_step_tokens)
        input_budget = self.max_prefill_tokens
        decoders = running[view.id[running] != self._cut]
        reserved = np.minimum(view.max_tokens - view.output_tokens, self.clip_tokens)[decoders].sum()
        room = free * bs - float(reserved) * self._ratio        # after what the running ones may still write
        batch: list[tuple[int, int]] = []
        for row in running[view.id[running] == self._cut].tolist():     # a prompt that was cut goes on before anyone else
            computed, tokens = int(view.computed_tokens[row]), int(left[row])
            chunk = min(tokens, chunk_budget)
            taken = _blocks(computed + chunk, bs) - _blocks(computed, bs)
            batch.append((self._cut, chunk))
            chunk_budget, input_budget, free = chunk_budget - chunk, input_budget - chunk, free - taken
            room -= taken * bs
            if chunk == tokens:
                self._cut, room = -1, room - min(int(view.max_tokens[row]), self.clip_tokens)
        for row in waiting.tolist():
            id, tokens, future = int(view.id[row]), int(left[row]), min(int(view.max_tokens[row]), self.clip_tokens)
            paged = _blocks(tokens, bs) * bs
            alone = not len(running) and not self._finished and not batch   # else one as large as the pool would wait for ever
            if seats <= 0 or (paged + future >= room and not (alone and paged <= free * bs)):
                self._full = True
                break
            if (paged > input_budget and batch) or chunk_budget <= 0:
                break
            chunk = min(tokens, chunk_budget)
            batch.append((id, chunk))
            self._take_turn(id)
            if chunk < tokens:
                self._cut, paged, future = id, _blocks(chunk, bs) * bs, 0
            seats, chunk_budget, input_budget = seats - 1, chunk_budget - chunk, input_budget - paged
            room, free = room - paged - future, free - paged // bs
            self._full = self._full or room <= 0
            if room <= 0 or chunk_budget <= 0 or input_budget <= 0:
                break
        return tuple(batch)

    def _take_turn(self, id: int) -> None:
        self._turn[id] = self._turns
        self._turns += 1

    # ---- when memory runs out

    def _retract(self, view: View, running: Ints) -> tuple[Ints, Ints]:
        """Who stays and who goes, until some steps fit: fewest outputs first, then longest prompt, then last in the batch."""
        bs = view.block_size
        turn = np.array([self._turn[id] for id in view.id[running].tolist()])
        order = running[np.lexsort((turn, view.prompt_tokens[running], -view.output_tokens[running]))]
        stay, free = len(order), view.free_blocks
        while stay > 1:
            stay -= 1
            victim = order[stay]
            self._take_turn(int(view.id[victim]))
            free += int(blocks_for(view.computed_tokens[victim : victim + 1], bs)[0])
            if free * bs >= stay * self.retract_steps:
                break
        kept = order[:stay]
        expected = float(view.output_tokens[kept].sum()) + self.retract_steps * stay
        self._ratio = min(1.0, expected / float(view.max_tokens[kept].sum()))
        self._decode_steps += 1             # the ratio does not fall with the step that follows
        self._full = False
        return np.sort(kept), order[stay:][::-1]


def _blocks(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)
