"""What a policy learns from the sequence of its Views: moving averages, nothing else."""

from __future__ import annotations

from collections import deque

from .api import Ints, View

_OLD = 0.9          # weight of the past in every moving average (TokenFlow's public code: 0.9 and 0.1)
_LEAST_SHARE = 0.1  # of a step in which both ran is the prompts', whatever decoding alone is believed to take
_PREFILLS = 32      # prefill steps that the seconds per token are averaged over


class Averages:
    """Seconds per prefill token, mean context of a request over its life, share of time that prefill takes."""

    def __init__(self) -> None:
        self.context_tokens = 0.0       #: prompt + half the output, EWMA over finished requests
        self.prefill_share = 0.0        #: EWMA over intervals
        self._prefills: deque[tuple[int, float]] = deque(maxlen=_PREFILLS)
        self._prefill_token_s = 0.0
        self.beside_s = 0.0             #: what the coming step would take without the prompts in it, set by the policy
        self._steps = self._tokens = 0
        self._prefill_s = self._spent_s = self._share_from_s = self._share_s = 0.0
        self._seen: tuple[Ints, Ints, Ints] | None = None

    def observe(self, view: View) -> None:
        """Take in what has happened since the last View."""
        if view.prefill_steps > self._steps:
            took_s = view.prefill_s - self._prefill_s
            took_s = max(took_s - self.beside_s, _LEAST_SHARE * took_s)
            self._spent_s += took_s
            self._prefills.append((view.prefill_tokens - self._tokens, took_s))
            self._steps, self._tokens, self._prefill_s = view.prefill_steps, view.prefill_tokens, view.prefill_s
            tokens, seconds = zip(*self._prefills)
            self._prefill_token_s = sum(seconds) / sum(tokens)
        same = False
        if self._seen is None:
            self.context_tokens = float((view.prompt_tokens + view.max_tokens / 2).mean())
        else:
            ids, prompt, output = self._seen
            last = ids[-1] if len(ids) else -1
            same = len(view.id) == len(ids) > 0 and bool(view.id[-1] == last)
            if not same and len(ids) > int(view.id.searchsorted(last, side="right")):       # fewer of them are left
                gone = view.id.take(view.id.searchsorted(ids), mode="clip") != ids
                for context in (prompt[gone] + output[gone] / 2).tolist():
                    self.context_tokens = _OLD * self.context_tokens + (1 - _OLD) * context
        if same and self._seen is not None:
            self._seen = (*self._seen[:2], view.output_tokens.copy())
        else:
            self._seen = view.id.copy(), view.prompt_tokens.copy(), view.output_tokens.copy()

    def prefill_token_s(self, view: View) -> float:
        """Seconds of prefill per token, over the last prefill steps; before the first, as the cost model believes."""
        if not self._prefills:
            tokens = float(view.prompt_tokens.mean())
            return view.cost.step_s(tokens, 0.0, tokens**2 / 2, 1) / tokens
        return self._prefill_token_s

    def close_interval(self, view: View, interval_s: float) -> None:
        """Bring the share of prefill up to now; longer pauses count as several intervals."""
        elapsed = view.now_s - self._share_from_s
        if elapsed > 0:
            share = (self._spent_s - self._share_s) / elapsed
            old = _OLD ** (elapsed / interval_s)
            self.prefill_share = old * self.prefill_share + (1 - old) * min(share, 1.0)
        self._share_from_s, self._share_s = view.now_s, self._spent_s
