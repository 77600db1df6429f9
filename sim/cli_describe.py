"""`tokenflow trace describe`: what is measured, as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from traces import Trace
from traces.describe import describe

from .cli_gap_fits import gap_fits
from .cli_tables import plain_console
from .counted import counted

Facts = Mapping[str, Any]

COARSE = 0.05       # share of gaps of zero from which on the clock, not the clients, made them


def measure(trace: Trace) -> dict[str, Any]:
    """Everything that is known of a trace; gap_fits: law -> shape and Kolmogorov-Smirnov distance, best first."""
    return describe(trace) | {"gap_fits": gap_fits(np.diff(trace.arrival_s))}


def show(facts: Facts) -> None:
    """Print it."""
    console = plain_console()
    left_out = "".join(f", {counted(count, 'row')} with {reason} left out" for reason, count in facts["dropped"].items())
    console.print(Text(f"{counted(facts['requests'], 'request')}{left_out}: {facts['trace']}"))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for title, said in _arrivals(facts):
        table.add_row(title, Text(said))
    console.print(table)
    console.print(_lengths(facts))
    if facts["input_output_spearman"] is not None:
        console.print(Text(f"Spearman correlation of input and output: {facts['input_output_spearman']:.2f}"))
    if rates := facts["consume_tps"]:
        said = (f"Readers' rates given for {rates['given']:,}: mean {rates['mean']:.1f} tokens/s, "
                f"P10 {rates['p10']:.1f}, P50 {rates['p50']:.1f}, P90 {rates['p90']:.1f}")
        varying = f"; {rates['changing']:,} of them change along the answer, and their means over it are meant"
        console.print(Text(said + (varying if rates["changing"] else "")))


def _arrivals(facts: Facts) -> Iterator[tuple[str, str]]:
    """Title and figures of each line on arrivals; lines without figures are left out."""
    rate = facts["rate_per_s"]
    yield "span", f"{facts['span_s']:,.1f} s" + (f", {rate:,.4g} requests/s" if rate else "")
    if facts["gap_cv"] is not None:
        yield "CV of gaps", f"{facts['gap_cv']:.2f}"
    if fits := facts["gap_fits"]:
        law = "; ".join(f"{name} {'' if name == 'exponential' else 'k={shape:.3f} '}(KS {{ks:.3f}})".format(**fit)
                        for name, fit in fits.items())
        yield "gaps look like", law
    if window := facts["gap_cv_per_300s"]:
        yield "CV per 300 s", "median {median:.2f}, from {least:.2f} to {most:.2f} in {windows:,} windows".format(**window)
    peaks = {width: peak for width, peak in facts["peak_to_mean"].items() if peak is not None}
    if peaks:
        yield "peak/mean", ", ".join(f"{peak:.1f} in {width.removesuffix('s')} s" for width, peak in peaks.items())
    if busiest := facts["busiest_1200s"]:
        yield "busiest 20 min", (
            "[{start_s:.0f}, {end_s:.0f}) s: {requests:,} requests, {rate_per_s:,.2f}/s; {input_tokens_per_s:,.0f} input and "
            "{output_tokens_per_s:,.0f} output tokens/s").format(**busiest)
    if (tied := facts["tied_gap_share"] or 0.0) > COARSE and facts["span_s"]:
        yield "ties", f"{tied:.0%} of gaps are zero: where the clock ticks coarsely, --jitter-ties SECONDS undoes false bursts"


def _lengths(facts: Facts) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("tokens", no_wrap=True)
    for level in facts["input_tokens"]:
        table.add_column(level.upper() if level.startswith("p") else level, justify="right")
    for side in ("input", "output"):
        table.add_row(side, *(f"{value:,.0f}" for value in facts[f"{side}_tokens"].values()))
    return table
