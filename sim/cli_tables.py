"""Results as tables for people: what was simulated, what readers saw, what the engine did, what it cost to compute."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from traces.pace import changing, mean_tps, split

from .cli_options import PAPERS_RATE
from .counted import counted
from .outcome import Outcome
from .result import Result
from .winner import verdict

Summary = Mapping[str, Any]

_TITLE_WIDTH, _RATIO_WIDTH = 25, 8


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    value: Callable[[Summary], float | None] | str      #: of the summary, or a key in it
    scale: float = 1.0
    form: str = "{:,.1f}"
    ratio: bool = True          #: whether its ratio to the first policy says something
    hidden: tuple[float | None, ...] = ()       #: values that are not worth a line when every policy has one of them

    def number(self, summary: Summary) -> float | None:
        value: float | None = summary[self.value] if isinstance(self.value, str) else self.value(summary)
        return None if value is None else value * self.scale

    def cells(self, summary: Summary, first: Summary) -> list[str]:
        """The value and, for all but the first policy, its ratio to the first's."""
        value, base = self.number(summary), self.number(first)
        shown = "-" if value is None else self.form.format(value)
        if summary is first:
            return [shown]
        return [shown, _ratio(value, base) if self.ratio and value is not None and base else ""]


_S, _PERCENT, _COUNT = "{:,.2f}", "{:.1f}", "{:,.0f}"
_ENGINE = (
    Row("output tokens/s", "output_throughput"),
    Row("duration, s", "duration"),
    Row("GPU busy, %", "gpu_busy_share", 100, _PERCENT, ratio=False),
    Row("preemptions", "preemptions", 1, _COUNT, ratio=False),
    Row("  of them to the host", "offloads", 1, _COUNT, ratio=False),
    Row("tokens recomputed", "recomputed_tokens", 1, _COUNT, ratio=False),
    Row("KV to host, GB", "d2h_bytes", 1e-9, ratio=False),
    Row("KV to GPU, GB", "h2d_bytes", 1e-9, ratio=False),
    Row("link busiest way, %", lambda s: _greater(s["h2d_utilisation"], s["d2h_utilisation"]), 100, _PERCENT, ratio=False),
)
_FATES = (
    Row("requests completed", "completed", 1, _COUNT, ratio=False),
    Row("  rejected", "rejected", 1, _COUNT, ratio=False, hidden=(0,)),
    Row("  dropped with the file", "dropped_row", 1, _COUNT, ratio=False, hidden=(0,)),
    Row("  unfinished", "unfinished", 1, _COUNT, ratio=False, hidden=(0,)),
)
_COST = (
    Row("CPU of simulate, s", "cpu_s", 1, _S),
    Row("tokens/CPU s, million", lambda s: s["generated_tokens"] / max(s["cpu_s"], 1e-9), 1e-6, _S),
)


def _readers(summary: Summary) -> list[Row]:
    """What readers went through, with the percentiles that were asked for."""
    ranks = [key[1:].removesuffix("_ttft_ms") for key in summary if key[0] == "p" and key.endswith("_ttft_ms")]
    return [
        Row("TTFT mean, s", "mean_ttft_ms", 1e-3, _S),
        Row("TTFT median, s", "median_ttft_ms", 1e-3, _S),
        *(Row(f"TTFT P{q}, s", f"p{q}_ttft_ms", 1e-3, _S) for q in ranks if q != "50"),        # the median
        Row("TTFT over 1.3 s, %", "ttft_over_1300ms_share", 100, _PERCENT, ratio=False),
        Row("TPOT mean, ms", "mean_tpot_ms"),
        *(Row(f"ITL P{q}, ms", f"p{q}_itl_ms") for q in ranks),
        Row("rebuffering mean, s", "mean_rebuffer_s", 1, _S),
        *(Row(f"rebuffering P{q}, s", f"p{q}_rebuffer_s", 1, _S) for q in ranks),
        Row("readers that stalled, %", "stalled_share", 100, _PERCENT, ratio=False),
        Row("fluency lost, %", "lost_fluency_share", 100, _PERCENT, ratio=False),
        Row("effective tokens/s", "effective_throughput"),
        Row("QoS", "qos", ratio=False),
        Row("QoE (Andes)", "mean_qoe", 1, "{:.3f}", ratio=False),
        Row("goodput, requests/s", "request_goodput", 1, _S, hidden=(None,)),
        Row("  of all requests, %", "goodput_share", 100, _PERCENT, ratio=False, hidden=(None,)),
    ]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the process here; whoever called us knows what to do."""
        raise BrokenPipeError


def plain_console() -> Console:
    """Standard output as rich sees it: 80 columns and no colours unless a terminal says otherwise."""
    return _Console(highlight=False)


def show(results: Mapping[str, Result], cpu_s: Mapping[str, float] | None = None) -> None:
    """The policies side by side, as many as the width holds; each further table begins with the first policy again."""
    console = plain_console()
    for line in heading(next(iter(results.values()))):
        console.print(Text(line))
    summaries = {label: result.summary | ({"cpu_s": cpu_s[label]} if cpu_s else {}) for label, result in results.items()}
    for page in pages(list(summaries), console.width):
        console.print(_table({label: summaries[label] for label in page}))
    found = verdict(summaries)
    if found is not None:
        console.print(Text(str(found)))
    if cpu_s:
        console.print(f"CPU of the whole process: {time.process_time():.2f} s")


def sections(summaries: Mapping[str, Summary]) -> list[list[tuple[str, list[list[str]]]]]:
    """The table's rows, section by section: a title and each policy's cells, its value and (but for the first) a ratio."""
    columns = list(summaries.values())
    cost = [_COST] if all("cpu_s" in summary for summary in columns) else []
    return [[(row.title, [row.cells(summary, columns[0]) for summary in columns])
             for row in section if any(row.number(summary) not in row.hidden for summary in columns)]
            for section in (_readers(columns[0]), _ENGINE, _FATES, *cost)]


def row_of(key: str) -> Row | None:
    """The row that shows this key of a summary, of whatever percentile; None when there is none."""
    rank = re.match(r"p[\d.]+(?=_)", key)
    ranks = {f"{rank[0]}_ttft_ms": None} if rank else {}
    return next((row for row in (*_readers(ranks), *_ENGINE, *_FATES) if row.value == key), None)


def keys(summary: Summary) -> list[str]:
    """Of the summary, those that the rows take."""
    rows = [row for section in (_readers(summary), _ENGINE, _FATES) for row in section]
    return [*(row.value for row in rows if isinstance(row.value, str)), "h2d_utilisation", "d2h_utilisation"]


def pages(labels: list[str], width: int) -> list[list[str]]:
    """The labels of each table, so wide in characters; each begins with the first policy."""
    first, *others = labels
    found, left = [[first]], width - _TITLE_WIDTH - _label_width(first)
    for label in others:
        need = _label_width(label) + _RATIO_WIDTH
        if need > left and len(found[-1]) > 1:
            found.append([first])
            left = width - _TITLE_WIDTH - _label_width(first)
        found[-1].append(label)
        left -= need
    return found


def _label_width(label: str) -> int:
    return max(len(line) for line in [*header(label).split("\n"), "12,345.67"])


def _table(summaries: Mapping[str, Summary]) -> Table:
    first = next(iter(summaries.values()))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("", no_wrap=True)
    for label, summary in summaries.items():
        table.add_column(Text(header(label)), justify="right", overflow="fold")
        if summary is not first:
            table.add_column("", style="dim", no_wrap=True)
    for section in sections(summaries):
        for i, (title, cells) in enumerate(section, 1):
            table.add_row(title, *(Text(cell) for column in cells for cell in column), end_section=i == len(section))
    return table


def header(label: str) -> str:
    """The label in lines: an argument each."""
    return label.replace("[", "\n[").replace(",", ",\n")


def heading(result: Outcome) -> list[str]:
    """What all runs have in common."""
    said = result.summary
    named = "" if said["workload"] is None else f"{said['workload']}, "
    lines = [
        f"{named}{counted(len(result.columns()['fate']), 'request')}: {said['trace'] or 'given'}",
        f"{said.get('model')} on {said.get('hardware')}" + _pools(said),
        _rates(result),
    ]
    if "engine" in said:
        lines.append(f"Measured: {said['engine']}; tokens timed {said['token_times']}; links {_first_clause(said['link_status'])}.")
    elif "latency_status" in said:        # from a profile, not a Machine put together by hand
        host = f"host time {said['host_s'] * 1e3:g} ms a step, {_first_clause(said['host_s_status'])}"
        lines.append(f"Step times {said['latency_status']}; {host}; links {_first_clause(said['link_status'])}.")
    return lines


def _pools(said: Summary) -> str:
    if said["kv_tokens"] is None:       # a server elsewhere
        return ""
    return f": KV pool {said['kv_tokens']:,} tokens, host {said['host_kv_tokens']:,}, {said['max_seqs']:,} seats"


def _rates(result: Outcome) -> str:
    """How fast readers are; the trace's source, a line above, names the law where rates were drawn from one."""
    told, rate = result.columns(), result.summary["consume_rate"]
    paces = told["consume_tps"]
    own, n = sum(pace != rate for pace in paces.tolist()), len(paces)
    if own == n:
        tps, changes = split(paces)
        rates, varying = mean_tps(tps, changes, told["output_tokens"].astype(np.int64)), bool(len(changing(changes)))
        return (f"Readers take {rates.min():.3g} to {rates.max():.3g} tokens/s{' over their answers' if varying else ''}, each "
                f"their own, {rates.mean():.3g} on average.")
    usual = f"Readers take {rate:g} tokens/s" + (" (the TokenFlow paper's rate)" if rate == PAPERS_RATE else "")
    return usual + (f" where the trace does not say otherwise; it does for {own:,} of {n:,}." if own else ".")


def _greater(one: float | None, other: float | None) -> float | None:
    """The greater of two shares; None when they are shares of no time at all."""
    return None if one is None or other is None else max(one, other)


def _ratio(value: float, base: float) -> str:
    ratio = value / base
    return f"x{ratio:.2f}" if ratio < 10 else f"x{ratio:,.0f}"


def _first_clause(text: str) -> str:
    return text.split(":")[0].split(";")[0]
