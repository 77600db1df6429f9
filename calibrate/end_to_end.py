"""A profile against an engine under load: TPOT and TTFT in a closed loop, simulated and measured.

A table has columns isl,osl,concurrency,ttft_ms,tpot_ms; ttft_ms may be left empty. The simulated clients do what `vllm bench
serve --max-concurrency` does: the next prompt is sent when an answer is complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path

import numpy as np

from sim.hardware import Hardware, load_hardware
from sim.simulate import simulate
from traces import BadInput, generate
from traces.cells import count, positive

from .check import model_of
from .fit_report import wrapped
from .tables import read_columns

_ROUNDS, _LEAST = 6, 24         # requests: so many per client, and so many in all, at least
_MOST_TOKENS = 20_000_000       # of a row's prompts and answers together: minutes


@dataclass(frozen=True)
class Row:
    """One load; milliseconds. ttft_ms of the table is NaN where it does not say."""

    isl: int
    osl: int
    concurrency: int
    ttft_ms: float
    tpot_ms: float
    model_ttft_ms: float
    model_tpot_ms: float

    @property
    def tpot_error(self) -> float:
        """model / measured - 1."""
        return self.model_tpot_ms / self.tpot_ms - 1

    @property
    def ttft_error(self) -> float:
        return self.model_ttft_ms / self.ttft_ms - 1


@dataclass(frozen=True)
class EndToEnd:
    """Simulated beside measured. Shown by print() and in a notebook."""

    rows: tuple[Row, ...]
    heading: str
    source: str

    def __str__(self) -> str:
        head = f"{'isl':>6}{'osl':>6}{'clients':>8}{'TPOT ms':>9}{'model':>9}{'error':>8}  {'TTFT ms':>9}{'model':>9}{'error':>8}"
        lines = [self.heading, *wrapped(f"against {self.source}"), "", head]
        lines += map(_line, self.rows)
        errors = np.array([row.tpot_error for row in self.rows]) * 100
        size = np.abs(errors)
        lines += ["", f"TPOT: MAPE {size.mean():.1f} %, bias {errors.mean():+.1f} %, at most {size.max():.1f} %"]
        lines += wrapped("TTFT includes client queueing: prompts that a loop sends together wait for each other's prefill, and "
                         "tools differ in whether waiting in the client counts. Judge the profile by TPOT.")
        return "\n".join(lines) + "\n"

    def _repr_html_(self) -> str:
        from html import escape
        return f"<pre>{escape(str(self))}</pre>"


def _line(row: Row) -> str:
    load = f"{row.isl:6}{row.osl:6}{row.concurrency:8}"
    tpot = f"{row.tpot_ms:9.2f}{row.model_tpot_ms:9.2f}{100 * row.tpot_error:+7.1f}%"
    if isnan(row.ttft_ms):
        return f"{load}{tpot}  {'-':>9}{row.model_ttft_ms:9.1f}{'-':>8}"
    return f"{load}{tpot}  {row.ttft_ms:9.1f}{row.model_ttft_ms:9.1f}{100 * row.ttft_error:+7.1f}%"


def end_to_end(profile: str | Path | Hardware, table: str | Path, model: str | Path | None = None) -> EndToEnd:
    """Every row of the table, simulated under vLLM's policy."""
    hardware = profile if isinstance(profile, Hardware) else load_hardware(profile)
    chosen = model_of(hardware, model)
    columns = {"isl": _at_least_one, "osl": _two_or_more, "concurrency": _at_least_one, "ttft_ms": _maybe, "tpot_ms": positive}
    wanted = read_columns(table, columns)
    rows = []
    for line in wanted:
        isl, osl, clients = (int(line[name]) for name in ("isl", "osl", "concurrency"))
        ttft_s, tpot_s = _closed_loop(hardware, chosen, isl, osl, clients, str(table))
        rows.append(Row(isl, osl, clients, line["ttft_ms"], line["tpot_ms"], 1e3 * ttft_s, 1e3 * tpot_s))
    return EndToEnd(tuple(rows), f"{chosen} on {hardware.name}, closed loops", str(table))


def _closed_loop(hardware: Hardware, model: str | Path, isl: int, osl: int, clients: int, where: str) -> tuple[float, float]:
    """Mean TTFT and TPOT of a steady state: neither each client's first request nor the last ones, which run with fewer others."""
    requests = max(_ROUNDS * clients, _LEAST)
    if requests * (isl + osl) > _MOST_TOKENS:
        why = f"{clients} clients x {isl + osl} tokens would take {requests * (isl + osl)} simulated tokens: too many"
        raise BadInput("table", where, why)
    trace = generate(requests, input_len=f"constant:{isl}", output_len=f"constant:{osl}", seed=0)
    result = simulate("vllm", trace, hardware, model, max_concurrency=clients)
    steady = np.argsort(result.records.sent_s, kind="stable")[clients:requests - clients]
    return float(result.metrics.ttft_s[steady].mean()), float(result.metrics.tpot_s[steady].mean())


def _at_least_one(text: str) -> float:
    value = count(text)
    if value < 1:
        raise ValueError("must be at least 1")
    return value


def _two_or_more(text: str) -> float:
    value = count(text)
    if value < 2:
        raise ValueError("must be at least 2: one token has no TPOT")
    return value


def _maybe(text: str) -> float:
    return nan if text in ("nothing", "-") else positive(text)
