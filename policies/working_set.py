"""Bounds on the working set (TokenFlow 4.2, step 1): how many requests are admitted, by the KV that they may come to hold."""

from __future__ import annotations

from .api import Ints, View


def peak_tokens(view: View, rows: Ints) -> float:
    """The most KV, in tokens, that these requests hold together before the last of them ends: an estimate.

    Each grows at its reader's rate up to its declared length and then leaves. Where some are generated further ahead of their
    readers than others, it is exceeded. Sums are taken just before each end, where they are largest: of who is still there
    then, what they hold now and what they will have grown by.
    """
    if not len(rows):
        return 0.0
    rate = view.consumption_rate[rows]
    ends_s = (view.max_tokens[rows] - view.output_tokens[rows]) / rate
    last_first = (-ends_s).argsort(kind="stable")
    now = (view.prompt_tokens[rows] + view.output_tokens[rows])[last_first].cumsum()
    return float((now + ends_s[last_first] * rate[last_first].cumsum()).max())


def paper_limit(view: View, mean_tokens: float, running: int, ramp: float) -> float:
    """W of Eq. 4 and 5: how many requests of `mean_tokens` each the working set may hold while so many run on the GPU."""
    blocks = max(view.total_blocks, view.host_total_blocks)
    static = blocks * view.block_size // mean_tokens
    if running >= view.total_blocks * view.block_size // mean_tokens:
        return static
    return static - ramp * (static - running)
