"""Readers as the audit follows them: token by token, and by nothing that the engine has worked out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from policies.api import Floats, Ints
from traces.pace import Changes

from .requests import Requests


@dataclass
class Followed:
    """Arrays by request id."""

    read_s: Floats = field(default_factory=lambda: np.full(256, -np.inf))   #: when the newest token is taken up
    rate: Floats = field(default_factory=lambda: np.zeros(256))             #: at which it is read
    changes: dict[int, Changes] = field(default_factory=dict)               #: of those whose rate changes

    def meet(self, requests: Requests, known: int) -> None:
        """Rows from `known` on are newcomers: nobody has a token yet."""
        ids = requests.id[known : requests.n]
        while len(ids) and ids[-1] >= len(self.rate):
            self.read_s = np.concatenate((self.read_s, np.full(len(self.read_s), -np.inf)))
            self.rate = np.concatenate((self.rate, np.zeros_like(self.rate)))
        self.rate[ids] = requests.consumption_rate[known : requests.n]
        self.changes |= {id: requests.rate_changes[id] for id in ids.tolist() if id in requests.rate_changes}

    def deliver(self, ids: Ints, output: Ints, ends_s: Floats) -> None:
        """These got one token at each of these times, after as many as `output` says."""
        varying = np.array([id in self.changes for id in ids.tolist()], np.bool_)
        for id, before in zip(ids[varying].tolist(), output[varying].tolist()):
            self._one_by_one(id, before, ends_s.tolist())
        constant, steps = ids[~varying], len(ends_s)
        gap_s = 1.0 / self.rate[constant]
        due_s = (ends_s + np.arange(steps - 1, -1, -1) * gap_s[:, None]).max(axis=1, initial=-np.inf)
        self.read_s[constant] = np.maximum(self.read_s[constant] + steps * gap_s, due_s)

    def _one_by_one(self, id: int, output: int, ends_s: list[float]) -> None:
        """Each token is taken up when it is there and the one before is read, at that one's rate."""
        read_s, rate, starts = float(self.read_s[id]), float(self.rate[id]), dict(self.changes[id])
        for token, end_s in enumerate(ends_s, output):
            read_s, rate = max(end_s, read_s + 1.0 / rate), starts.get(token, rate)
        self.read_s[id], self.rate[id] = read_s, rate
