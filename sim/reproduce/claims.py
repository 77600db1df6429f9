"""What the TokenFlow paper (arXiv 2510.02758) claims, as data. Ratios are ours to the baseline's: -80.2 % is 0.198.

`kind` says how a claim is judged:
    best        "up to": on the row furthest in the claimed direction
    every       on every row: judged on the worst
    at least    the ratio may not fall below `bound`, on any row
    near        the ratio is 1, give or take `bound`, on every row
    item        by the item itself, which also fills the row
    untestable  not at all, for `reason`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .setups import BURSTS, POISSONS

Kind = Literal["best", "every", "at least", "near", "item", "untestable"]


@dataclass(frozen=True)
class Claim:
    id: str
    item: str
    source: str                             #: where in the paper: figure, table, or section
    says: str
    kind: Kind
    number: int = 0                         #: in our list of the paper's claims; 0: an expectation beside it
    metric: str = ""                        #: of `sim.reproduce.kept.SUMMARY`
    published: float | None = None          #: ratio
    sign: int = 0                           #: where no size is published
    bound: float = 0.0
    rows: tuple[str, ...] = ()              #: names of setups
    ours: str = "{}"                        #: policy, with {} for tokenflow and tokenflow-paper
    baselines: tuple[str, ...] = ("sglang", "andes")
    reason: str = ""

    @property
    def up(self) -> int:
        """+1 where the claim is that the ratio exceeds 1."""
        return self.sign or (0 if self.published is None else 1 if self.published > 1 else -1)


_TTFT, _P50, _P99, _EFF, _RAW, _SPAN = ("mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms", "effective_throughput",
                                        "output_throughput", "duration")
_H200_POISSON = ("h200-c", "h200-d")


def _traces(item: str, gpu: str, row: str, effective: float) -> tuple[Claim, ...]:
    return (
        Claim(f"{item}-ttft", item, "7.2", f"mean TTFT -52.6 % on average over traces ({gpu})", "every", 5, _TTFT, 0.474,
              rows=(row,)),
        Claim(f"{item}-p50", item, "7.2", f"P50 TTFT up to -88.7 % over traces ({gpu})", "best", 5, _P50, 0.113, rows=(row,)),
        Claim(f"{item}-effective", item, "7.2", f"effective throughput up to {100 * effective - 100:+.1f} % on traces ({gpu})",
              "best", 5, _EFF, effective, rows=(row,)),
    )


CLAIMS: tuple[Claim, ...] = (
    Claim("fig1-ahead", "fig1", "Fig. 1", "an FCFS engine writes ahead of some readers while others wait", "item"),
    Claim("fig2-peak", "fig2", "Fig. 2", "SGLang in a burst on an H200: peak TTFT above 20 s", "item", 14),
    Claim("fig2-active", "fig2", "Fig. 2", "... while the active streams get about 30 tokens/s each", "item", 14, published=30.0),
    Claim("fig6-at-2", "fig6", "Fig. 6", "the toy example: nobody is preempted at 2 s", "item", 15),
    Claim("fig6-at-3", "fig6", "Fig. 6", "the toy example: R1 yields to R3 at 3 s", "item", 15),
    Claim("fig6-at-5", "fig6", "Fig. 6", "the toy example: R1 replaces R2 at 5 s", "item", 15),
    Claim("fig6-stalls", "fig6", "Fig. 6", "the toy example: nobody stalls", "item", 15),
    Claim("fig8-waits", "fig8", "Fig. 8", "chunks arranged by step: a preemption has almost nothing left to write", "item"),
    Claim("fig10-overlap", "fig10", "Fig. 10", "loads and evictions overlap, which shortens the exchange", "item"),
    *_traces("fig12", "H200", "H200, Llama3-8B", 1.371),
    *_traces("fig13", "A6000", "A6000, Qwen2.5-7B", 1.451),
    Claim("traces-industrial", "fig12", "7.2", "the same on an industrial trace", "untestable", 5,
          reason="the paper only plots its distribution, and no figures of it are published"),
    Claim("fig14-queued", "fig14", "Fig. 14", "fewer requests queued over 20 minutes of BurstGPT", "item", 13),
    Claim("fig15-running", "fig15", "Fig. 15", "more requests running over 20 minutes of BurstGPT", "item", 13),
    Claim("burst-p99", "fig16", "Fig. 16", "P99 TTFT up to -80.2 % in bursts", "best", 2, _P99, 0.198, rows=BURSTS),
    Claim("burst-ttft", "fig16", "Fig. 16", "mean TTFT up to -48.4 % in bursts", "best", 3, _TTFT, 0.516, rows=BURSTS),
    Claim("burst-effective", "fig16", "Fig. 16", "effective throughput up to +52.9 % in bursts", "best", 3, _EFF, 1.529,
          rows=BURSTS),
    Claim("burst-p99-every", "fig16", "Fig. 16", "P99 TTFT better in every burst row", "every", 2, _P99, sign=-1, rows=BURSTS),
    Claim("burst-effective-every", "fig16", "Fig. 16", "effective throughput better in every burst row", "every", 3, _EFF, sign=1,
          rows=BURSTS),
    Claim("burst-raw", "fig16", "Fig. 16", "raw throughput as SGLang's, in every burst row", "at least", 6, _RAW, bound=0.97,
          rows=BURSTS, baselines=("sglang",)),
    Claim("burst-raw-andes", "fig16", "Fig. 16", "Andes' raw throughput notably below SGLang's, in every burst row", "every", 6,
          _RAW, sign=-1, rows=BURSTS, ours="andes", baselines=("sglang",)),
    Claim("poisson-effective", "fig17", "Fig. 17", "effective throughput up to +82.5 % under Poisson arrivals", "best", 1, _EFF,
          1.825, rows=POISSONS),
    Claim("poisson-effective-every", "fig17", "Fig. 17", "effective throughput better in all four Poisson rows", "every", 1, _EFF,
          sign=1, rows=POISSONS),
    Claim("poisson-ttft", "fig17", "Fig. 17", "mean TTFT up to -53.7 % under Poisson arrivals on the H200", "best", 4, _TTFT, 0.463,
          rows=_H200_POISSON),
    Claim("poisson-raw", "fig17", "Fig. 17", "raw throughput as SGLang's, in every Poisson row", "at least", 6, _RAW, bound=0.97,
          rows=POISSONS, baselines=("sglang",)),
    Claim("poisson-raw-andes", "fig17", "Fig. 17", "Andes' raw throughput notably below SGLang's, in every Poisson row", "every",
          6, _RAW, sign=-1, rows=POISSONS, ours="andes", baselines=("sglang",)),
    Claim("fig18-ahead", "fig18", "Fig. 18", "tokens come in time for the readers: none stalls", "item"),
    Claim("fig19-classes", "fig19", "Fig. 19", "with 40 % of readers at 15 and 60 % at 20 tokens/s each class keeps its rate",
          "item", 11),
    *(Claim(f"fig20-{what}", "fig20", "Fig. 20", f"{title} best at each rate of readers: 20, 25, 30 tokens/s", "every", 12, metric,
            sign=sign, rows=("20 tokens/s", "25 tokens/s", "30 tokens/s"))
      for what, title, metric, sign in (("ttft", "mean TTFT", _TTFT, -1), ("effective", "effective throughput", _EFF, 1))),
    Claim("fig22-ttft", "fig22", "Fig. 22", "the shorter interval is marginally better: mean TTFT at 0.5 s against 1.5 s", "every",
          9, _TTFT, sign=-1, rows=("4090-b", "burst-80"), ours="{}[interval_s=0.5]", baselines=("{}[interval_s=1.5]",)),
    Claim("fig22-small", "fig22", "Fig. 22", "... and the interval matters little: within 10 %", "near", 9, _TTFT, bound=0.1,
          rows=("4090-b", "burst-80"), ours="{}[interval_s=0.5]", baselines=("{}[interval_s=1.5]",)),
    Claim("fig23-near", "fig23", "Fig. 23", "conservativeness 20 is SGLang-like: mean TTFT within 20 %", "near", 10, _TTFT,
          bound=0.2, rows=("4090-b", "burst-80"), ours="{}[conservativeness=20]", baselines=("sglang",)),
    Claim("fig23-ttft", "fig23", "Fig. 23", "conservativeness 1 has the shorter mean TTFT than 20", "every", 10, _TTFT, sign=-1,
          rows=("4090-b", "burst-80"), ours="{}[conservativeness=1]", baselines=("{}[conservativeness=20]",)),
    *(Claim(f"table2-{field.replace('_', '-')}", "table2", "Table 2",
            f"the run takes {seconds} s without {what}, 66.00 s complete", "every", 7,
            _SPAN, seconds / 66.0, rows=("4090-b",), ours="{}[" + field + "=false]", baselines=("{}",))
      for field, what, seconds in (("offload", "offload", 127.28), ("write_through", "write-through", 82.76),
                                   ("overlap", "evict-load overlap", 74.43))),
    Claim("table2-order", "table2", "Table 2", "complete < without overlap < without write-through < without offload", "item", 7),
    Claim("table2-intro", "table2", "introduction", "preemption overhead -20.3 %: 1 - 66.00/82.76, by write-through", "every", 7,
          _SPAN, 1 - 0.203, rows=("4090-b",), ours="{}", baselines=("{}[write_through=false]",)),
    Claim("overhead-plan", "overhead", "headline figures", "the scheduler's cost: 0.07 to 0.4 ms", "untestable", 8,
          reason="a time of this computer, not of the model: measured beside the paper's in host.json and on the page"),
    Claim("fig11", "fig11", "Fig. 11", "lengths of the industrial trace", "untestable",
          reason="the paper plots a private trace's distribution, whose figures are not published"),
    Claim("fig21", "fig21", "Fig. 21", "the same gains on an Ascend 910B", "untestable", 16,
          reason="no figure is given in the text, and there are no public step times of this NPU"),
)


def of_item(item: str) -> list[Claim]:
    return [claim for claim in CLAIMS if claim.item == item]
