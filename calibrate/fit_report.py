"""A Fit as text of 80 columns, and as HTML for a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from .held_out import DESIGNED, HALVES
from .regions import Errors, by_region, failures
from .solver import PARAMETERS

if TYPE_CHECKING:
    from .fitting import Fit

#: of each parameter: symbol, what it is, unit, how many units a second (or 1) is
_SHOWN = {
    "weights_s": ("m", "reading the weights", "ms", 1e3),
    "token_s": ("g", "compute", "us/token", 1e6),
    "kv_token_s": ("b", "attention to contexts", "ns/token", 1e9),
    "pair_s": ("q", "attention among prompt tokens", "ns/pair", 1e9),
    "seq_s": ("r", "per request", "us/request", 1e6),
    "knee": ("p", "sharpness of the knee", "", 1.0),
}
_NARROW = 0.5       # half of an interval over the value: above it the rows hardly tell the term
_COLUMNS = ("MAPE %", "bias %", "P90 %", "max %")


def as_text(fit: Fit) -> str:
    return "\n".join(_lines(fit)) + "\n"


def as_html(fit: Fit) -> str:
    """The same text; monospaced tables need no styling to be read."""
    return f"<pre>{escape(as_text(fit))}</pre>"


def error_lines(tables: Mapping[str, Errors], title: str) -> list[str]:
    """A table of errors by region, 80 columns at most."""
    lines = [f"{title:<38.38}{'rows':>6}" + "".join(f"{column:>9}" for column in _COLUMNS)]
    for name, errors in tables.items():
        numbers = f"{errors.mape:9.2f}{errors.bias:+9.2f}{errors.p90:9.2f}{errors.max:9.2f}"
        lines.append(f"  {name:<36.36}{errors.rows:6,}{numbers}")
    return lines


def doubts(fit: Fit) -> list[str]:
    """What the rows cannot tell, or hardly: a line for each term."""
    said = list(fit.unidentified)
    for name, value, (low, high) in zip(PARAMETERS, fit.parameters, fit.intervals):
        if high - low > 2 * _NARROW * value:
            said.append(f"{name}: hardly told by these rows")
    return said


def _lines(fit: Fit) -> Iterator[str]:
    table = fit.table
    left_out = f", {table.skipped} left out (not ok)" if table.skipped else ""
    yield f"{len(table):,} steps of {table.source}{left_out}"
    yield ""
    yield f"{'fitted':<33}{'value':>12}  90 % interval"
    for name, value, (low, high) in zip(PARAMETERS, fit.parameters, fit.intervals):
        symbol, what, unit, scale = _SHOWN[name]
        interval = "not told by these rows" if np.isnan(low) else f"{low * scale:.4g} to {high * scale:.4g}"
        yield f"  {symbol}  {what:<30}{value * scale:10.4g}  {interval:<22} {unit}".rstrip()
    host = fit.host
    span = f"{host.low_s * 1e3:.4g} to {host.high_s * 1e3:.4g}"
    yield f"     {'host time':<30}{host.value_s * 1e3:10.4g}  {span:<22} ms"
    yield from (f"    {line}" for line in wrapped(host.status, 74))
    yield ""
    yield from error_lines(by_region(table, fit.relative), "errors on the rows fitted")
    held = fit.held_out
    for errors, title in ((held.designed, f"held out: {DESIGNED} designed rows fitted"),
                          (held.halves, f"held out: {HALVES} random halves")):
        yield ""
        if errors is None:
            yield f"{title}: too few rows for that"
        else:
            yield from error_lines(errors, title)
    yield ""
    yield "where it fails"
    for line in failures(table, fit.relative):
        yield from wrapped(line)
    said = doubts(fit)
    if not fit.host.measured:
        said.append(f"host time and weights_s: a step shows only their sum; host time {fit.host.status.split(':')[0]}")
    if said:
        yield ""
        yield "what these rows do not tell"
        for line in said:
            yield from wrapped(line)


def wrapped(line: str, width: int = 78) -> list[str]:
    """Indented, in lines of at most so many columns."""
    from textwrap import wrap
    return wrap(line, width, initial_indent="  ", subsequent_indent="    ")
