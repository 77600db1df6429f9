"""How long steps of one model take on one GPU, as a profile says it: coefficients, how good they are, whence they come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from .geometry import ModelGeometry
from .latency import LatencyModel
from .strict_json import Count, NotNegative, Strict, Text


class Coefficients(Strict):
    """`sim.latency.LatencyModel` without the host time: seconds, and the knee's exponent."""

    weights_s: NotNegative
    token_s: NotNegative
    kv_token_s: NotNegative
    pair_s: NotNegative
    seq_s: NotNegative
    knee: Annotated[float, Field(ge=1)]

    @model_validator(mode="after")
    def _takes_time(self) -> Coefficients:
        self.with_host(0.0)
        return self

    def with_host(self, host_s: float) -> LatencyModel:
        return LatencyModel(self.weights_s, self.token_s, self.kv_token_s, self.pair_s, self.seq_s, self.knee, host_s)


class FitError(Strict):
    """|model / table - 1| in percent on rows the coefficients were not fitted to."""

    rows: Count             #: of the table, used to fit or to test
    test_mape_pct: NotNegative
    prefill_mape_pct: NotNegative | None = None     #: None: the table has no such rows
    decode_mape_pct: NotNegative | None = None
    p90_pct: NotNegative
    max_pct: NotNegative


class StepTimes(Strict):
    """Step times of one model on one GPU, and where they come from."""

    latency: Coefficients
    engine: Text
    engine_version: Text
    source: Text
    licence: str = ""
    how_fitted: Text
    status: Text
    date: str = ""
    fit_error: FitError | None = None
    intervals_90: Mapping[str, tuple[float, float]] | None = None   #: of the coefficients that the rows tell, by bootstrap
    untold: tuple[str, ...] = ()            #: what the rows do not tell, in words
    geometry: ModelGeometry | None = None   #: of a model that the package does not know
    kv_tokens: Count | None = None          #: KV pool of the engine that was profiled, its null block included
