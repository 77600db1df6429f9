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

    _ratio: float = field(init=False, repr=False, default=-1.0)
    _full: bool = field(init=False, repr=False, default=False)
    _decode_steps: int = field(init=False, repr=False, default=0)
    _running: int = field(init=False, repr=False, default=0)
    _requeued: dict[int, int] = field(init=False, repr=False, default_factory=dict)

    def plan(self, view: View) -> Plan:
        running = (view.residency == Residency.GPU).nonzero()[0]
        waiting = self._queue(view)
        self._observe(view, running, waiting)
        prefill = self._prefill(view, running, waiting)
        if prefill:
            self._running = len(running) + sum(view.residency[view.rows(np.array([id]))[0]] == Residency.NONE for id, _ in prefill)
            return Plan(prefill=prefill)
        stay, gone = running, NOBODY
        if int(np.count_nonzero(view.computed_tokens[running] % view.block_size == 0)) > view.free_blocks:
            stay, gone = self._retract(view, running)
        self._running = len(stay)
        return Plan(decode=view.id[stay], drop=view.id[gone], wake_after_steps=int(len(gone) > 0),
                    until=Event.FINISH if self._full else Event.ARRIVAL)

    # ---- what happened since the last plan

    def _observe(self, view: View, running: Ints, waiting: Ints) -> None:
        start = min(self.init_ratio * self.schedule_conservativeness, 1.0)
        least = self.min_ratio_factor * start
        was_idle = not len(running) and len(waiting) > 0 and bool(view.arrival_s[waiting].min() == view.now_s)
        if self._ratio < 0 or was_idle:
            self._ratio = start
        else:
            self._ratio = max(self._ratio - (view.decode_steps - self._decode_steps) * (start - least) / self.decay_steps, least)
        self._decode_steps = view.decode_steps
        if len(running) < self._running:
            self._full = False

    def _queue(self, view: View) -> Ints:
        """Rows that wait: by the time they joined the queue, the retracted ones when they were retracted."""
        waiting: Ints = (view.residency == Residency.NONE).nonzero()[0]
        again = view.preemptions[waiting] > 0
        if not again.any():
            return waiting
        since = np.where(again, view.moved_s[waiting], view.arrival_s[waiting])
        turn = np.array([self._requeued.get(int(id), -1) for id in view.id[waiting]])
        queue: Ints = waiting[np.lexsort((turn, since))]
        return queue

    # ---- prefill first

    def _prefill(self, view: View, running: Ints, waiting: Ints) -> tuple[tuple[int, int], ...]:
        """The next prefill batch; empty when the decodes have their turn."""
        left, bs = view.remaining_tokens, view.block_size
        midway = running[left[running] > 1]
        if not len(midway) and (self._full or not len(waiting)):
            return ()
        if len(running) >= view.max_seqs and not len(midway):
            self._full = True
            return ()
        chunk_budget = min(self.chunked_prefill_size or view.max_step_tokens, view.max_step_tokens)
        input_budget = self.max_prefill_tokens
        clipped = np.minimum(view.max_tokens - view.output_tokens, self.clip_tokens)
        room = view.free_blocks * bs - float(clipped[running].sum()) * self._ratio     # after what the running ones may still write
        free = view.free_blocks
        batch: list[tuple[int, int]] = []
        for row in midway:                                      # a prompt that was cut goes on before anyone else
            chunk = min(int(left[row]), chunk_budget)
            need = _blocks(int(view.computed_tokens[row]) + chunk, bs) - _blocks(int(view.computed_tokens[row]), bs)
            if need > free:
                break
            batch.append((int(view.id[row]), chunk))
            chunk_budget, input_budget, room, free = chunk_budget - chunk, input_budget - chunk, room - need * bs, free - need
        if len(batch) < len(midway) or self._full:
            return tuple(batch)
        seats = view.max_seqs - len(running)
        for row in waiting:
            tokens = int(left[row])
            paged = _blocks(tokens, bs) * bs
            alone = not len(running) and not batch              # else a request as large as the pool would wait for ever
            if paged + min(int(view.max_tokens[row]), self.clip_tokens) >= room and not (alone and paged <= free * bs):
                self._full = True
                break
            if tokens > input_budget and batch:
                break
            chunk = min(tokens, chunk_budget)
            batch.append((int(view.id[row]), chunk))
            seats, chunk_budget, input_budget = seats - 1, chunk_budget - chunk, input_budget - chunk
            room -= paged + (int(clipped[row]) if chunk == tokens else 0)
            free -= _blocks(chunk, bs)
            if seats <= 0 or room <= 0 or chunk_budget <= 0 or input_budget <= 0 or chunk < tokens:
                break
        return tuple(batch)

    # ---- when memory runs out

    def _retract(self, view: View, running: Ints) -> tuple[Ints, Ints]:
        """Who stays and who goes: fewest outputs first, longest prompt first among equals, until some steps fit."""
        bs = view.block_size
        order = running[np.lexsort((view.prompt_tokens[running], -view.output_tokens[running]))]
        stay, free = len(order), view.free_blocks
        while stay > 1:
            stay -= 1
            victim = order[stay]
            self._requeued[int(view.id[victim])] = len(self._requeued)
            free += int(blocks_for(view.computed_tokens[victim : victim + 1], bs)[0])
            if free * bs >= stay * self.retract_steps:
                break
        kept = order[:stay]
        expected = float(view.output_tokens[kept].sum()) + self.retract_steps * stay
        self._ratio = min(1.0, expected / float(view.max_tokens[kept].sum()))
        return np.sort(kept), order[stay:][::-1]


def _blocks(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)
