"""A trace: who asks for what, when, and how fast they read. Struct of arrays, one element per request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from traces import cells, options
from traces import pace as paces
from traces.errors import BadInput
from traces.streams import Purpose, stream

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Names = npt.NDArray[np.object_]

Numbers = float | Sequence[float] | npt.NDArray[Any]
Texts = str | Sequence[str] | npt.NDArray[Any]
Rates = Numbers | Texts | paces.Pace | Sequence[float | str | paces.Pace]


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in order of arrival (ties keep the order of the source). All arrays have shape (n,) and are read-only.

    NaN means "not given": the run then uses its own default. `make_trace` builds one from unchecked values.
    """

    arrival_s: Floats           #: seconds from the start of the trace, never decreasing
    input_tokens: Ints          #: prompt length, at least 1
    output_tokens: Ints         #: output length that the model will really produce, at least 1
    consume_tps: Floats         #: tokens per second the reader takes, at first; NaN: the run's default
    rate_changes: Names         #: and further along the answer: `traces.pace.Changes`, () when that is all
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

    def window(
        self, start_s: float | None = None, end_s: float | None = None, limit: int | None = None, time_scale: float = 1.0
    ) -> Trace:
        """The requests that arrive in [start_s, end_s), the first `limit` of them, their times multiplied by `time_scale`.

        `start_s` and `end_s` are seconds on the clock of `arrival_s`. With a start, arrivals are counted from it; without,
        they stay as they are. `time_scale` acts last: 2.0 halves the rate. BadInput names the option that is impossible
        or leaves no request.
        """
        start = 0.0 if start_s is None else options.zero_or_more("--start", start_s)
        end = np.inf if end_s is None else options.positive("--end", end_s)
        scale = options.positive("--time-scale", time_scale)
        most = len(self) if limit is None else options.whole("--limit", limit, least=1)
        if end <= start:
            raise BadInput("--end", f"{end:.12g}", f"must be after --start, {start:.12g}")
        first, stop = np.searchsorted(self.arrival_s, [start, end])
        stop = min(stop, first + most)
        if first == stop:
            span = f"{self.source or 'the trace'} runs from {self.arrival_s[0]:.12g} to {self.arrival_s[-1]:.12g} s"
            option, value = ("--end", end) if start_s is None else ("--start", start)
            raise BadInput(option, f"{value:.12g}", f"no request arrives in [{start:.12g}, {end:.12g}) s: {span}")
        cut = {f.name: getattr(self, f.name)[first:stop] for f in fields(self) if f.name not in ("source", "dropped")}
        cut["arrival_s"] = (cut["arrival_s"] - start) * scale
        if cut["arrival_s"][-1] > cells.MOST:
            raise BadInput("--time-scale", f"{scale:.12g}", "moves arrivals beyond 2**53 s")
        cut["arrival_s"].setflags(write=False)
        used = {"--start": start_s, "--end": end_s, "--limit": limit, "--time-scale": None if scale == 1 else scale}
        source = " ".join([self.source, *(f"{option} {value:.12g}" for option, value in used.items() if value is not None)])
        return replace(self, **cut, source=source.strip())

    def jitter_ties(self, seconds: float, seed: int = 0) -> Trace:
        """Requests with one time stamp spread uniformly over `seconds` from it: for traces whose clock ticks coarsely.

        They keep their order, and stay before the next time stamp where that comes sooner. Requests with a time stamp of
        their own stay where they are. BadInput names the option.
        """
        width = options.positive("--jitter-ties", seconds)
        stamps, group, size = np.unique(self.arrival_s, return_inverse=True, return_counts=True)
        room = np.minimum(np.append(np.diff(stamps), np.inf), width)
        later = stream(seed, Purpose.TIES).random(len(self)) * room[group]
        later[size[group] == 1] = 0.0
        arrival_s = self.arrival_s + later[np.lexsort((later, group))]
        if arrival_s[-1] > cells.MOST:
            raise BadInput("--jitter-ties", f"{width:.12g}", "moves arrivals beyond 2**53 s")
        arrival_s.setflags(write=False)
        return replace(self, arrival_s=arrival_s, source=f"{self.source} --jitter-ties {width:.12g} --seed {seed}".strip())


def make_trace(
    arrival_s: Numbers,
    input_tokens: Numbers,
    output_tokens: Numbers,
    *,
    consume_tps: Rates | None = None,
    priority: Numbers | None = None,
    ttft_slo_s: Numbers | None = None,
    tpot_slo_s: Numbers | None = None,
    reader: bool | Sequence[bool] | npt.NDArray[Any] | None = None,
    model: Texts | None = None,
    session: Texts | None = None,
    klass: Texts | None = None,
    source: str = "",
    dropped: Mapping[str, int] | None = None,
) -> Trace:
    """A checked Trace. A scalar stands for every request; None, and NaN in an optional number, mean "not given".

    `consume_tps`: numbers, or paces as in `traces.pace` ("30/10@200").

    Values are copied, put in order of arrival (stable: ties keep their order) and made read-only. BadInput names the
    element when a number is not finite, beyond 2**53, or out of its range: arrivals zero or above, tokens whole and at
    least 1, rates at least 1e-9, weights and SLOs above 0; when lengths differ; and when there is no request at all.
    """
    where = source or "(no source)"

    def optional(name: str, values: Numbers | None) -> Floats:
        return _in_range(where, name, _array(where, name, np.nan if values is None else values), "above 0", missing=True)

    first_tps, rate_changes = _rates(where, consume_tps)
    columns: dict[str, npt.NDArray[Any]] = {
        "arrival_s": _in_range(where, "arrival_s", _array(where, "arrival_s", arrival_s), "zero or above"),
        "input_tokens": _tokens(where, "input_tokens", input_tokens),
        "output_tokens": _tokens(where, "output_tokens", output_tokens),
        "consume_tps": _at_least(where, "consume_tps", optional("consume_tps", first_tps), cells.LEAST_TPS),
        "rate_changes": rate_changes,
        "priority": np.nan_to_num(optional("priority", priority), nan=1.0),
        "ttft_slo_s": optional("ttft_slo_s", ttft_slo_s),
        "tpot_slo_s": optional("tpot_slo_s", tpot_slo_s),
        "reader": _flags(where, "reader", True if reader is None else reader),
        "model": _names(where, "model", model),
        "session": _names(where, "session", session),
        "klass": _names(where, "klass", klass),
    }
    lengths = {name: len(values) for name, values in columns.items() if values.ndim}
    if len(set(lengths.values())) > 1:
        raise BadInput("trace", where, f"lengths differ: {', '.join(f'{name} {n}' for name, n in lengths.items())}")
    requests = next(iter(lengths.values()), 1)
    if requests == 0:
        raise BadInput("trace", where, "there are no requests")
    order = np.argsort(np.broadcast_to(columns["arrival_s"], requests), kind="stable")
    for name, values in columns.items():
        columns[name] = np.broadcast_to(values, requests)[order]
        columns[name].setflags(write=False)
    return Trace(**columns, source=source, dropped=dict(dropped or {}))


def _array(where: str, name: str, values: object) -> npt.NDArray[Any]:
    """The values as an array of at most one dimension."""
    try:
        array = np.asarray(values)
        if array.ndim > 1:
            raise ValueError
    except ValueError:
        raise BadInput("trace", where, f"{name} must be one value or one sequence of them") from None
    return array


def _rates(where: str, values: Rates | None) -> tuple[npt.NDArray[Any], Names]:
    """Rates at first, and what changes later."""
    name = "consume_tps"
    array = _array(where, name, np.nan if values is None else values)
    changes = paces.constant(array.size)
    if array.dtype.kind not in "OU":
        return array, changes.reshape(array.shape)
    tps = np.empty(array.size)
    for i, value in enumerate(np.asarray(values, object).flat):
        try:
            rate = paces.parse(value) if isinstance(value, str) else value
            if isinstance(rate, paces.Pace):
                tps[i], changes[i] = rate.tps, rate.changes
            elif isinstance(rate, (int, float, np.number)) and not isinstance(rate, bool):
                tps[i] = rate
            else:
                raise ValueError("must be a number or a pace")
        except (ValueError, OverflowError) as error:
            place = f"{name}[{i}]" if array.ndim else name
            why = "is larger than 2**53" if isinstance(error, OverflowError) else error
            raise BadInput("trace", where, f"{place}: {cells.shown(value)} {why}") from None
    return tps.reshape(array.shape), changes.reshape(array.shape)


def _in_range(where: str, name: str, array: npt.NDArray[Any], least: str, *, missing: bool = False) -> Floats:
    """Finite floats, `least` being "zero or above" or "above 0"; with `missing`, NaN passes."""
    if array.dtype.kind not in "iuf" and array.size:
        raise BadInput("trace", where, f"{name} must be numbers, got {cells.shown(array.flat[0])}")
    if array.dtype.kind == "f":
        array = array.astype(np.float64)
    low = array < 0 if least == "zero or above" else array <= 0
    bad = low | (array > cells.MOST) | (np.isnan(array) & (not missing))
    _refuse(where, name, array, bad, f"must be {least}, finite and at most 2**53")
    return array.astype(np.float64)


def _at_least(where: str, name: str, array: Floats, least: float) -> Floats:
    """NaN passes."""
    _refuse(where, name, array, array < least, f"must be at least {least:g}")
    return array


def _tokens(where: str, name: str, values: object) -> Ints:
    """Whole numbers of tokens, at least 1."""
    array = _array(where, name, values)
    counts = _in_range(where, name, array, "above 0")
    _refuse(where, name, array, counts != np.floor(counts), "must be a whole number")
    return array.astype(np.int64)


def _flags(where: str, name: str, values: object) -> Bools:
    """True or False each."""
    array = _array(where, name, values)
    if array.dtype != np.bool_:
        raise BadInput("trace", where, f"{name} must be True or False, got {cells.shown(array.flat[0] if array.size else values)}")
    return array


def _names(where: str, name: str, values: object) -> Names:
    """Text each, without surrounding blanks."""
    array = _array(where, name, "" if values is None else values).astype(object)
    clean: dict[Any, str] = {}
    for strange in (text for text in array.flat if not isinstance(text, str)):
        raise BadInput("trace", where, f"{name}: {cells.shown(strange)} is not text")
    for text in set(array.flat):
        try:
            clean[text] = cells.name(text)
        except ValueError as error:
            raise BadInput("trace", where, f"{name}: {cells.shown(text)} {error}") from None
    return np.array([clean[text] for text in array.flat], dtype=object).reshape(array.shape)


def _refuse(where: str, name: str, array: npt.NDArray[Any], bad: Bools, must: str) -> None:
    """BadInput for the first element that is bad, if one is."""
    if bad.any():
        index = int(np.argmax(bad))
        place = f"{name}[{index}]" if array.ndim else name
        raise BadInput("trace", where, f"{place} is {array.flat[index]}: it {must}")
