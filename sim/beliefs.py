"""What the policy believes things cost: the machine's truth times the errors it was given."""

from __future__ import annotations

from .machine import Machine


class Beliefs:
    """A `policies.api.CostModel`. With `believed_step` and `believed_link` at 1 it is exact."""

    def __init__(self, machine: Machine) -> None:
        self._latency, self._step = machine.latency, machine.believed_step
        self._load_token_s = machine.block_copy_s(machine.h2d_bytes_per_s) / machine.block_size / machine.believed_link
        self._store_token_s = machine.block_copy_s(machine.d2h_bytes_per_s) / machine.block_size / machine.believed_link

    def step_s(self, tokens: float, kv_tokens: float, pairs: float, seqs: float) -> float:
        return self._step * self._latency.step_s(tokens, kv_tokens, pairs, seqs)

    def load_s(self, tokens: float) -> float:
        return tokens * self._load_token_s

    def store_s(self, tokens: float) -> float:
        return tokens * self._store_token_s
