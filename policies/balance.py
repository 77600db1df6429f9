"""Buffer balancing: who is worth GPU memory for the next interval (TokenFlow 4.2, step 2)."""

from __future__ import annotations

import numpy as np

from .api import Bools, Floats, Ints

_PHI_FLOOR_S = -5.0     # a buffer that will have been dry for longer counts no worse
_PHI_SCALE_S = 1.0


def token_value(buffered_tokens: Floats, output_tokens: Ints) -> Floats:
    """Weight of a further token, Eq. 1: 1 up to a buffer of 10 % of the whole output, 0 from 20 % on."""
    value: Floats = np.clip(2.0 - buffered_tokens / (0.1 * output_tokens), 0.0, 1.0)
    return value


def marginal_utility(value: Floats, speed: float, interval_s: float, overhead_s: Floats, slack_s: Floats, load_s: Floats,
                     gamma: float) -> Floats:
    """U = v g max(0, dt - t_overhead) + gamma phi(b - r (dt + tau_load)), phi(x) = exp(-x / r / 1 s).

    The gain of serving a request over leaving it out, whose buffer would then run down: the emptier it is, the larger.
    """
    ahead = np.maximum(slack_s - interval_s - load_s, _PHI_FLOOR_S)
    utility: Floats = value * speed * np.maximum(interval_s - overhead_s, 0.0) + gamma * np.exp(-ahead / _PHI_SCALE_S)
    return utility


def printed_utility(value: Floats, speed: float, interval_s: float, overhead_s: Floats, buffered_tokens: Floats,
                    gamma: float) -> Floats:
    """U = v t' - gamma e^-b as the paper prints it: it ranks empty buffers last."""
    utility: Floats = value * speed * np.maximum(interval_s - overhead_s, 0.0) - gamma * np.exp(-buffered_tokens)
    return utility


def fill(ranked: Ints, utility: Floats, blocks: Ints, room: int, seats: int, passes: int) -> Bools:
    """Which of the `ranked` rows to seat, shape (len(ranked),): greedily while they fit, then adjacent swaps across the cut.

    `utility`, `blocks`: per row of the View; `room`: blocks, `seats`: requests that the selection may hold together.
    """
    need = blocks[ranked]
    if len(ranked) <= seats and int(need.sum()) <= room:
        return np.ones(len(ranked), np.bool_)
    chosen = np.zeros(len(ranked), np.bool_)
    used = held = 0
    for i, size in enumerate(need.tolist()):
        if held < seats and used + size <= room:
            chosen[i] = True
            used, held = used + size, held + 1
    worth = utility[ranked]
    for _ in range(passes):
        swapped = False
        for i in (chosen[1:] & ~chosen[:-1]).nonzero()[0].tolist():     # i left out just before i + 1, which is in
            if worth[i] > worth[i + 1] and used - need[i + 1] + need[i] <= room:
                chosen[i], chosen[i + 1] = True, False
                used += int(need[i] - need[i + 1])
                swapped = True
        if not swapped:
            break
    return chosen
