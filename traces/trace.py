"""A trace: who asks for what, when, and how fast they read. Struct of arrays, one element per request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Names = npt.NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in order of arrival (ties keep the order of the source). All arrays have shape (n,) and are read-only.

    NaN means "not given": the run then uses its own default.
    """

    arrival_s: Floats           #: seconds from the start of the trace, never decreasing
    input_tokens: Ints          #: prompt length, at least 1
    output_tokens: Ints         #: output length that the model will really produce, at least 1
    consume_tps: Floats         #: tokens per second the reader takes; NaN: the run's default
    priority: Floats            #: weight of the request's class; 1 when not given
    ttft_slo_s: Floats          #: NaN when not given
    tpot_slo_s: Floats          #: NaN when not given
    reader: Bools               #: False: nobody reads along; the request stays outside reader metrics
    model: Names                #: "" when not given
    session: Names              #: "" when not given
    klass: Names                #: traffic class (column `class`), "" when not given
    source: str = ""            #: where it came from: a file name or a generator with its parameters
    dropped: dict[str, int] = field(default_factory=dict)   #: rows the loader left out, reason -> how many

    def __len__(self) -> int:
        return len(self.arrival_s)
