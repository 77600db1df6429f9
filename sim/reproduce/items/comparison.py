"""Figures that compare policies on workloads, as bars: Fig. 12, 13, 16, 17, 20, 22, 23, Table 2, the second reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from ...intervals import Estimate, estimate
from .. import pictures, setups
from ..claims import CLAIMS
from ..item import Item, Picture, Table, Told
from ..judging import Row, busy, compared, means, ratio, row
from ..runs import Found, Run
from ..setups import CONTROLS, OURS, POLICIES, How, Setup
from ..verdicts import FAILS, ordered

#: title, key of the summary, scale
METRICS = (("mean TTFT, s", "mean_ttft_ms", 1e-3), ("P50 TTFT, s", "median_ttft_ms", 1e-3), ("P99 TTFT, s", "p99_ttft_ms", 1e-3),
           ("effective tokens/s", "effective_throughput", 1.0), ("output tokens/s", "output_throughput", 1.0),
           ("rebuffering, mean s", "mean_rebuffer_s", 1.0))
_SPAN = (("duration, s", "duration", 1.0),)
_PREEMPTIONS = (("preemptions", "preemptions", 1.0),)

Setups = Callable[[How], Sequence[Setup]]


def table(title: str, used: Sequence[Setup], policies: Sequence[str], how: How, found: Found,
          metrics: Sequence[tuple[str, str, float]] = METRICS) -> Table:
    """Means over seeds; what came to no end has none."""
    rows = []
    for setup in used:
        for policy in policies:
            cells = []
            for _, key, scale in metrics:
                values = means(setup, policy, key, how, found)
                cells.append(sum(values) / len(values) * scale if values else None)
            rows.append([setup.name, policy, *cells])
    return Table(title, ("on", "policy", *(name for name, _, _ in metrics)), rows)


def panels(used: Sequence[Setup], policies: Sequence[str], how: How, found: Found,
           metrics: Sequence[tuple[str, str, float]] = METRICS) -> dict[str, pictures.Groups]:
    def of(setup: Setup, policy: str, key: str, scale: float) -> Estimate | None:
        values = means(setup, policy, key, how, found)
        return estimate([value * scale for value in values]) if values else None
    return {name: {setup.name: {policy: of(setup, policy, key, scale) for policy in policies} for setup in used}
            for name, key, scale in metrics}


def item(name: str, about: str, minutes: float, used: Setups, policies: Sequence[str], caption: str, notes: Sequence[str] = (),
         more: Callable[[How, Found], list[Row]] | None = None, metrics: Sequence[tuple[str, str, float]] = METRICS,
         in_all: bool = True, about_requests: bool = False) -> Item:
    """An item whose claims are all judged by comparing two of the policies; those without bounds say why, and are not drawn."""
    tabled = (*policies, *(setups.WITHOUT_BOUNDS.values() if policies is POLICIES else ()))

    def runs(how: How) -> list[Run]:
        return [run for setup in used(how) for run in setup.runs((*tabled, *CONTROLS), how)]       # every verdict names them

    def tell(how: How, found: Found) -> Told:
        here = used(how)
        said = [*notes, *([setups.segment_about(how)] if about_requests else [])]
        return Told(compared(name, here, how, found) + (more(how, found) if more else []), said,
                    [table(about, here, tabled, how, found, metrics)],
                    [Picture(name, caption, partial(pictures.bars, panels(here, policies, how, found, metrics)))])
    return Item(name, about, minutes, runs, tell, in_all)


def _arms(*fields: str, also: Sequence[str] = ()) -> list[str]:
    return [*also, *(policy + (f"[{field}]" if field else "") for policy in OURS for field in fields)]


def _b(how: How) -> list[Setup]:
    return [setups.table1("4090-b", how)]


def _both(how: How) -> list[Setup]:
    """A burst whose prompts all fit into GPU memory at once, and one whose prompts do not."""
    return [setups.table1("4090-b", how), Setup("burst-80", "burst-80")]


def _rates(how: How) -> list[Setup]:
    return [setups.table1("4090-b", how, consume_tps=tps, name=f"{tps:g} tokens/s") for tps in (20.0, 25.0, 30.0)]


def _order(how: How, found: Found) -> list[Row]:
    """Complete < without overlap < without write-through < without offload."""
    claim, = (claim for claim in CLAIMS if claim.id == "table2-order")
    setup, rows = _b(how)[0], []
    for policy in OURS:
        arms = [policy, *(f"{policy}[{field}=false]" for field in ("overlap", "write_through", "offload"))]
        if any(found.failure(run) for run in setup.runs(tuple(arms), how)):
            rows.append(row(claim, FAILS, policy=policy, on=setup.name, why="one of the four came to no end"))
            continue
        steps = [ratio(setup, slower, faster, "duration", how, found) for faster, slower in pairwise(arms)]
        shown = ", ".join(f"x{step.mean:.3f}" for step in steps)
        rows.append(row(claim, ordered(steps), policy=policy, on=setup.name, why=f"each over the one before: {shown}; "
                        f"{'; '.join(busy(setup, arm, how, found) for arm in arms)}"))
    return rows


_BARS = "Bars are means over seeds, with their 95 % interval; the paper's figure has the same groups."
_RATE = "Readers take 20 tokens/s: the paper does not say, and its other figures use 15 to 30."
_HOST = ("The host pool is twice the GPU's, SGLang's default; the paper does not give its own. It decides what fits beside the "
         "GPU, and much of the H200's TTFT with it: sens-host.")
_ON_B = "The paper does not say on which workload; ours is the burst of 80 on the RTX 4090 (Table 1, 4090 (b))."
_ON_BOTH = ("The paper does not say on which workload; ours are the burst of 80 on the RTX 4090 with Qwen2-7B (Table 1, "
            "4090 (b)), and a like one with Llama3-8B, `burst-80`, whose prompts do not all fit into GPU memory at once.")

ITEMS = (
    item("fig12", "BurstGPT on the H200: TTFT and throughput", 1.5, lambda how: [setups.trace_of("h200", how)], POLICIES, _BARS,
         ("The load is ours, 0.9 of what the machine puts out; the paper does not give its own.", _RATE), about_requests=True),
    item("fig13", "BurstGPT on the A6000: TTFT and throughput", 0.5, lambda how: [setups.trace_of("a6000", how)], POLICIES, _BARS,
         ("The paper's Qwen2.5-8B does not exist; ours is Qwen2.5-7B. The load is ours, 0.9 of what the machine puts out.", _RATE),
         about_requests=True),
    item("fig16", "Table 1's bursts: TTFT and throughput", 1.5, setups.bursts, POLICIES, _BARS, (_RATE, _HOST)),
    item("fig17", "Table 1's Poisson arrivals: TTFT and throughput", 12, setups.poissons, POLICIES, _BARS,
         (_RATE, _HOST,
          "300 s of arrivals, then the rest is served; the paper does not say how long. In overload TTFT grows with it.")),
    item("fig20", "Readers of 20, 25 and 30 tokens/s", 0.2, _rates, POLICIES, _BARS, (
        _ON_B, "Ceilings of effective throughput at a steady speed g and no queue, as a share of g: 1 up to g = r/0.9, "
        "(0.1 + 2(a - 0.1) - 5(a^2 - 0.01))/a up to g = r/0.8, then 0.15/a, with a = 1 - r/g.")),
    item("fig22", "Reschedule intervals of 0.5, 1 and 1.5 s", 0.2, _both,
         _arms("interval_s=0.5", "", "interval_s=1.5", also=("sglang",)), _BARS, (_ON_BOTH,)),
    item("fig23", "Conservativeness of 1, 2 (default) and 20", 0.2, _both,
         _arms("conservativeness=1", "", "conservativeness=20", also=("sglang",)), _BARS, (
             _ON_BOTH, "On 4090-b all prompts fit into GPU memory at once: no newcomer needs a victim, so TTFT "
                       "cannot depend on it there."),
         metrics=METRICS + _PREEMPTIONS),
    item("table2", "Ablations on the 4090 (b)", 0.1, _b,
         _arms("", "overlap=false", "write_through=false", "offload=false"), _BARS, (
             "The paper does not name what Table 2 measures; we read the time of the whole run, because the introduction's 20.3 % "
             "is 1 - 66.00/82.76.",), _order, METRICS + _SPAN + _PREEMPTIONS),
    item("second-reading", "Table 1 with SL and LL read as short and long lengths, input and output alike", 7,
         setups.second_reading,
         POLICIES, _BARS, (_RATE, "The paper does not say which of the two it means; LL is the same in both. Not part of `all`."),
         in_all=False),
)
