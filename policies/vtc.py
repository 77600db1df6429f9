"""VTC (arXiv 2401.00588): the client served least, in virtual tokens, is admitted next. Control: fairness without buffers.

SGLang's loop with another queue. A client's counter grows by its weighted prompt and output tokens over its class weight
(`priority`). There is no client in the View: by default each request is its own, with its class weight. Newcomers, who have had
nothing, then stay in order of arrival, and the retracted, who have, come after them, the least served first: under a load that
never ends they wait for ever. `clients="class"` shares one counter among the requests of a weight; a class that comes back is
lifted to the least of those who queue, so that nobody saves service up. With a single class that is `sglang`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal

import numpy as np

from .api import Bools, Floats, Ints, Plan, Residency, View
from .sglang import SGLang


@dataclass
class Vtc(SGLang):
    input_weight: float = 1.0           #: virtual tokens per prompt token, charged on admission (the paper's 1)
    output_weight: float = 2.0          #: per output token (the paper's 2)
    clients: Literal["request", "class"] = "request"

    # client, a request's id or a class weight -> virtual tokens
    _served: dict[float, float] = field(init=False, repr=False, compare=False, default_factory=dict)
    _left: tuple[float, float] = field(init=False, repr=False, compare=False, default=(-1.0, 0.0))      # who left the queue last
    # of the View before: ids, outputs, who was ready to decode, weights
    _seen: tuple[Ints, Ints, Bools, Floats] | None = field(init=False, repr=False, compare=False, default=None)
    _decode_tokens: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("input_weight", "output_weight"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"{name}={getattr(self, name)}: must be a finite number not below zero")
        if self.clients not in ("request", "class"):
            raise ValueError(f"clients={self.clients}: must be one of request, class")

    def plan(self, view: View) -> Plan:
        self._charge_outputs(view)
        self._join(view)
        plan = super().plan(view)
        for row in view.rows(np.array([id for id, _ in plan.prefill], np.int64)).tolist():
            if view.residency[row] == Residency.NONE:
                client = self._client(view, row)
                if not view.preemptions[row]:
                    self._served[client] += self.input_weight * float(view.prompt_tokens[row] / view.priority[row])
                self._left = client, self._served[client]
        self._seen = view.id.copy(), view.output_tokens.copy(), view.remaining_tokens == 1, view.priority.copy()
        self._decode_tokens = view.decode_tokens
        return plan

    def _queue(self, view: View, waiting: Ints) -> Ints:
        """These rows, each time one of the client with the least counter; a client's own in SGLang's order."""
        rows = super()._queue(view, waiting)
        served = np.array([self._served[self._client(view, row)] for row in rows.tolist()])
        if self.clients == "class":                 # whoever goes first charges those behind
            cost = self.input_weight * view.prompt_tokens[rows] / view.priority[rows] * (view.preemptions[rows] == 0)
            for weight in np.unique(view.priority[rows]).tolist():
                own = view.priority[rows] == weight
                served[own] += cost[own].cumsum() - cost[own]
        queue: Ints = rows[served.argsort(kind="stable")]
        return queue

    def _client(self, view: View, row: int) -> float:
        return float(view.id[row]) if self.clients == "request" else float(view.priority[row])

    # ---- counters

    def _charge_outputs(self, view: View) -> None:
        """What was put out since the View before; of those who are gone, what nobody else can have put out."""
        if self._seen is None:
            return
        ids, output, ready, weight = self._seen
        now = view.id.searchsorted(ids)
        here = view.id.take(now, mode="clip") == ids if len(view.id) else np.zeros(len(ids), np.bool_)
        made = np.zeros(len(ids))
        made[here] = view.output_tokens[now[here]] - output[here]
        unseen = view.decode_tokens - self._decode_tokens - float(made[here & ready].sum())
        gone = ~here & ready
        made[gone] = unseen / max(int(np.count_nonzero(gone)), 1)
        made[~here & ~ready] = 1                    # its prefill gave its only token
        for i in made.nonzero()[0].tolist():
            client = float(ids[i]) if self.clients == "request" else float(weight[i])
            self._served[client] += self.output_weight * float(made[i]) / float(weight[i])
        self._left = self._left[0], self._served.get(self._left[0], self._left[1])
        if self.clients == "request":
            for id in ids[~here].tolist():
                del self._served[float(id)]

    def _join(self, view: View) -> None:
        """Newcomers join the queue: a class that has nobody in it is lifted. No request comes back to be lifted."""
        newest = int(self._seen[0][-1]) if self._seen is not None and len(self._seen[0]) else -1
        if int(view.id[-1]) <= newest:
            return
        new = view.id > newest
        if self.clients == "request":
            self._served |= dict.fromkeys(view.id[new].astype(np.float64).tolist(), 0.0)
            return
        queued = {self._client(view, row) for row in (~new & (view.residency == Residency.NONE)).nonzero()[0].tolist()}
        for row in new.nonzero()[0].tolist():
            client = self._client(view, row)
            if client not in queued:
                least = min(self._served[each] for each in queued) if queued else self._left[1]
                self._served[client] = max(self._served.get(client, 0.0), least)
                queued.add(client)
