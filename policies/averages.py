"""What a policy learns from the sequence of its Views, and from what it ordered: moving averages, nothing else."""

from __future__ import annotations

from collections import deque

from .api import Ints, View

_OLD = 0.9          # weight of the past in every moving average (TokenFlow's public code: 0.9 and 0.1)
_PREFILLS = 32      # prefill steps that the seconds per token are averaged over
_LEAST = 0.25       # of what prompts take alone, beside decodes: what fits below the knee of the step time is cheap, not free


class Averages:
    """Seconds per prefill token and of a decode step, mean context of a request over its life, share of time that prefill takes.

    Of a step in which requests decoded too, what the decode step before it took is not the prompts'.
    """

    def __init__(self) -> None:
        self.context_tokens = 0.0       #: prompt + half the output, EWMA over finished requests
        self.prefill_share = 0.0        #: EWMA over intervals
        self.beside_s = 0.0             #: what the coming step would take without the prompts in it, set by the policy; 0: nothing
        self._alone, self._prefills = _Prefills(), _Prefills()      # those without decodes; all
        self._decode_step_s = 0.0
        self._steps = self._tokens = self._decode_steps = 0
        self._prefill_s = self._decode_s = self._spent_s = self._share_from_s = self._share_s = 0.0
        self._seen: tuple[Ints, Ints, Ints] | None = None

    def observe(self, view: View) -> None:
        """Take in what has happened since the last View."""
        if view.decode_steps > self._decode_steps:
            self._decode_step_s = (view.decode_s - self._decode_s) / (view.decode_steps - self._decode_steps)
            self._decode_steps, self._decode_s = view.decode_steps, view.decode_s
        if view.prefill_steps > self._steps:
            tokens, took_s = view.prefill_tokens - self._tokens, view.prefill_s - self._prefill_s
            if not self.beside_s:
                self._alone.add(tokens, took_s)
            elif self._alone.token_s:
                most_s = tokens * self._alone.token_s
                took_s = min(max(took_s - self.beside_s, _LEAST * most_s), most_s)
            self._prefills.add(tokens, took_s)
            self._spent_s += took_s
            self._steps, self._tokens, self._prefill_s = view.prefill_steps, view.prefill_tokens, view.prefill_s
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
        if not self._prefills.token_s:
            tokens = float(view.prompt_tokens.mean())
            return view.cost.step_s(tokens, 0.0, tokens**2 / 2, 1) / tokens
        return self._prefills.token_s

    def decode_step_s(self, view: View, decoders: Ints) -> float:
        """Seconds of a step in which these rows decode: what the last such steps took, or at first what the cost model believes."""
        seqs = len(decoders)
        return self._decode_step_s or view.cost.step_s(seqs, float(view.computed_tokens[decoders].sum()), 0.0, seqs)

    def close_interval(self, view: View, interval_s: float) -> None:
        """Bring the share of prefill up to now; longer pauses count as several intervals."""
        elapsed = view.now_s - self._share_from_s
        if elapsed > 0:
            share = (self._spent_s - self._share_s) / elapsed
            old = _OLD ** (elapsed / interval_s)
            self.prefill_share = old * self.prefill_share + (1 - old) * min(share, 1.0)
        self._share_from_s, self._share_s = view.now_s, self._spent_s


class _Prefills:
    """Seconds per token of the last prefill steps."""

    def __init__(self) -> None:
        self.token_s = 0.0              #: 0 before the first
        self._last: deque[tuple[int, float]] = deque(maxlen=_PREFILLS)

    def add(self, tokens: int, took_s: float) -> None:
        self._last.append((tokens, took_s))
        all_tokens, seconds = zip(*self._last)
        self.token_s = sum(seconds) / sum(all_tokens)
