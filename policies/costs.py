"""What moving KV costs, as believed, behind what the links have queued."""

from __future__ import annotations

import numpy as np

from .api import Floats, View


def load_s(view: View) -> Floats:
    """tau_load of every request: seconds to bring its KV back from the host, shape (n,)."""
    queued_s = max(view.h2d_free_s - view.now_s, 0.0)
    return np.asarray(view.computed_tokens * view.cost.load_s(1.0) + queued_s, np.float64)


def evict_s(view: View) -> Floats:
    """tau_evict of every request: seconds to write what has no copy yet, shape (n,)."""
    queued_s = max(view.d2h_free_s - view.now_s, 0.0)
    return np.asarray((view.computed_tokens - view.host_tokens) * view.cost.store_s(1.0) + queued_s, np.float64)
