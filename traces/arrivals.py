"""When requests come: laws that are written as short specs and drawn from a random stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isinf
from typing import ClassVar, Protocol, Self

import numpy as np

from traces import burstgpt, cells
from traces.errors import BadInput
from traces.trace import Floats


class Arrivals(Protocol):
    """A law of arrival times with a mean rate and a shape of gaps (`--burstiness`)."""

    parameters: ClassVar[str]       #: that follow the name in a spec, as `:NAME` each
    burstiness: ClassVar[float]     #: shape of the gaps when none is given
    lengths: ClassVar[tuple[str, str]]      #: specs of prompts and outputs when none are given

    @classmethod
    def parse(cls, parameters: list[float]) -> Self:
        """The law with these positive parameters. ValueError says what is wrong with them."""

    def times_s(self, rng: np.random.Generator, requests: int, rate: float, burstiness: float) -> Floats:
        """Arrival times in seconds, shape (requests,), at `rate` requests per second on average."""


@dataclass(frozen=True)
class _Plain:
    """No parameters of its own."""

    parameters: ClassVar[str] = ""
    burstiness: ClassVar[float] = 1.0
    lengths: ClassVar[tuple[str, str]] = ("constant:512", "constant:512")

    @classmethod
    def parse(cls, parameters: list[float]) -> Self:
        return cls()


@dataclass(frozen=True)
class Burst(_Plain):
    """All at time 0."""

    def times_s(self, rng: np.random.Generator, requests: int, rate: float, burstiness: float) -> Floats:
        return np.zeros(requests)


@dataclass(frozen=True)
class Gamma(_Plain):
    """As `vllm bench serve`: gaps have the CV 1 / sqrt(burstiness); 1 is a Poisson process, inf a metronome."""

    def times_s(self, rng: np.random.Generator, requests: int, rate: float, burstiness: float) -> Floats:
        return gamma_arrivals_s(rng, requests, rate, burstiness)


@dataclass(frozen=True)
class Weibull(_Plain):
    """Gaps are Weibull with shape `burstiness`: 1 is a Poisson process, 0.5 has CV 2.2, inf is a metronome."""

    def times_s(self, rng: np.random.Generator, requests: int, rate: float, burstiness: float) -> Floats:
        return _even(rng.weibull, requests, burstiness) * _span_s(requests, rate)


@dataclass(frozen=True)
class OnOff(_Plain):
    """Quiet for `off_s` seconds, busy for `on_s`, and again; gaps within are Gamma as above.

    Over whole periods the rate is the mean rate, while busy `peak` times that, while quiet what is left.
    """

    parameters: ClassVar[str] = ":PEAK:ON_S:OFF_S"

    peak: float
    on_s: float
    off_s: float

    @classmethod
    def parse(cls, parameters: list[float]) -> Self:
        law = cls(*parameters)
        most = (law.on_s + law.off_s) / law.on_s
        if not 1 <= law.peak <= most:
            raise ValueError(f"PEAK must lie between 1 and (ON_S + OFF_S) / ON_S, {most:g}")
        return law

    def times_s(self, rng: np.random.Generator, requests: int, rate: float, burstiness: float) -> Floats:
        period_s, busy_rate = self.on_s + self.off_s, self.peak * rate
        quiet_rate = max(rate * (period_s - self.peak * self.on_s) / self.off_s, 0.0)
        come = _even(rng.standard_gamma, requests, burstiness) * requests      # so many, counted on
        _span_s(requests, rate)
        periods, come = np.divmod(come, period_s * rate)
        quiet = quiet_rate * self.off_s
        into_s = np.where(come < quiet, come / (quiet_rate or 1.0), self.off_s + (come - quiet) / busy_rate)
        times_s: Floats = np.maximum.accumulate(periods * period_s + into_s)
        return times_s


@dataclass(frozen=True)
class BurstGpt(_Plain):
    """Gamma gaps in hours that are busy or quiet; see `traces.burstgpt`."""

    burstiness: ClassVar[float] = burstgpt.SHAPE
    lengths: ClassVar[tuple[str, str]] = (burstgpt.BurstGptRequest.form, burstgpt.BurstGptResponse.form)

    def times_s(self, rng: np.random.Generator, requests: int, rate: float, burstiness: float) -> Floats:
        ends = _even(rng.standard_gamma, requests, burstiness)
        times_s: Floats = np.maximum.accumulate(burstgpt.hourly_load(rng, ends, _span_s(requests, rate)))
        return times_s


LAWS: dict[str, type[Arrivals]] = {
    "burst": Burst,
    "poisson": Gamma,
    "gamma": Gamma,
    "weibull": Weibull,
    "onoff": OnOff,
    "burstgpt": BurstGpt,
}


def parse_arrivals(option: str, spec: str) -> Arrivals:
    """The law that a spec such as `poisson` or `onoff:4:60:240` names. BadInput names the option."""
    name, *parameters = str(spec).split(":")
    if name not in LAWS:
        first, second, *others = (known + law.parameters for known, law in LAWS.items())
        raise BadInput(option, str(spec), f"must be {first} or {second}, or one of {', '.join(others)}")
    law = LAWS[name]
    if len(parameters) != law.parameters.count(":"):
        raise BadInput(option, cells.shown(spec), f"must be written {name}{law.parameters}")
    try:
        return law.parse([_positive(parameter) for parameter in parameters])
    except ValueError as error:
        raise BadInput(option, cells.shown(spec), str(error)) from None


def gamma_arrivals_s(rng: np.random.Generator, requests: int, rate: float, burstiness: float) -> Floats:
    """Arrival times in seconds as `vllm bench serve` draws them, shape (requests,).

    Gaps are Gamma with shape `burstiness` and mean 1 / `rate`: their CV is 1 / sqrt(burstiness), 1 is a Poisson process,
    inf is a metronome. The first request comes after one gap. As in vLLM, all times are then scaled so that the last
    request comes at exactly requests / rate: every seed offers the same load.
    """
    return _even(rng.standard_gamma, requests, burstiness) * _span_s(requests, rate)


def _even(gaps: Callable[[float, int], Floats], requests: int, shape: float) -> Floats:
    """Ends of gaps of that shape, scaled so that the last is 1."""
    ends = np.arange(1.0, requests + 1) if isinf(shape) else np.cumsum(gaps(shape, requests))
    if not 0 < ends[-1] < np.inf:
        why = "every gap rounds to zero" if ends[-1] <= 0 else "gaps overflow"
        raise BadInput("--burstiness", f"{shape:g}", f"is so small that {why}")
    scaled: Floats = ends / ends[-1]
    return scaled


def _span_s(requests: int, rate: float) -> float:
    """How long so many requests take."""
    span_s = requests / rate
    if span_s > cells.MOST / 2:     # on/off bursts may end a while after it
        raise BadInput("--request-rate", f"{rate:g}", "is so small that arrivals lie beyond 2**53 s")
    return span_s


def _positive(parameter: str) -> float:
    try:
        return cells.positive(parameter)
    except ValueError as error:
        raise ValueError(f"{cells.shown(parameter)} {error}") from None
