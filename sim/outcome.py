"""What tables, figures and pages take from one run of one policy, live (`Result`) or read back (`saved_runs.Saved`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt

from policies.api import Floats

from .timeline import Timeline


class Outcome(Protocol):
    """Columns are those of requests.csv; what was not kept is None."""

    @property
    def label(self) -> str:
        """The policy's name in tables."""

    @property
    def summary(self) -> Mapping[str, Any]: ...

    @property
    def timeline(self) -> Timeline | None: ...

    def columns(self) -> Mapping[str, npt.NDArray[Any]]: ...

    def token_times_s(self, id: int, /) -> Floats | None: ...

    def read_along(self, id: int, /) -> tuple[Floats, Floats] | None: ...
