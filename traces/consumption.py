"""How fast readers take text up: laws that are written as short specs and drawn from a random stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import fsum, log1p, sqrt

import numpy as np

from traces import cells
from traces.errors import BadInput
from traces.pace import Changes, Pace, constant, parse
from traces.streams import Purpose, stream
from traces.trace import Floats, Names, Trace


@dataclass(frozen=True)
class Readers:
    """Classes of readers: the share of each, its mean rate in tokens per second, and the CV of rates within each.

    Where there are `changes`, `mean_tps` is what a class begins with, and changes[c] are those of class c.
    """

    spec: str
    shares: tuple[float, ...]
    mean_tps: tuple[float, ...]
    cv: float = 0.0
    changes: tuple[Changes, ...] = ()

    @property
    def overall_tps(self) -> float:
        """Mean over all readers, when they begin."""
        return fsum(share * tps for share, tps in zip(self.shares, self.mean_tps))

    def sample(self, rng: np.random.Generator, n: int) -> tuple[Floats, Names]:
        """Rates of `n` readers in tokens per second, and their changes: lognormal within a class, a reader's all alike."""
        class_rng, spread_rng = rng.spawn(2)        # so that the first readers stay the same when there are more
        sigma = sqrt(log1p(self.cv**2))
        spread = np.exp(sigma * spread_rng.standard_normal(n) - sigma * sigma / 2)
        of_class = class_rng.choice(len(self.shares), n, p=self.shares)
        changes = constant(n)
        for number, later in enumerate(self.changes):
            for i in (of_class == number).nonzero()[0].tolist() if later else ():
                changes[i] = tuple((token, float(tps * spread[i])) for token, tps in later)
        rates: Floats = np.array(self.mean_tps)[of_class] * spread
        return rates, changes

    def __str__(self) -> str:
        return self.spec


SPREAD_CV = 0.2     #: of people within a class: 175 to 300 words a minute as a 10-90 % range of adults (Brysbaert 2019) gives 0.21

#: Readers of English by age, 18-24, 25-44, 45-54, 55-64 and 65+: shares and 236, 201, 192, 185, 175 words a minute as in the
#: code of Andes (Liu et al. 2024, arXiv 2404.16283), at 1.3 tokens a word. Mean 4.5 tokens/s; all adults, silently: 5.3
#: (Brysbaert 2019, Journal of Memory and Language 109: 238 words a minute over 190 studies, at 1.33).
READING = Readers("human-reading", (0.280, 0.519, 0.112, 0.056, 0.033), (5.10, 4.35, 4.17, 4.02, 3.79), SPREAD_CV)

#: Listeners to speech in English, Chinese, Korean, French and Spanish: shares and rates likewise from Andes (English: 150 words
#: a minute). Mean 3.9 tokens/s.
LISTENING = Readers("human-listening", (0.793, 0.070, 0.069, 0.036, 0.032), (3.23, 6.67, 5.26, 6.67, 7.69), SPREAD_CV)

NAMED = {readers.spec: readers for readers in (READING, LISTENING)}


def parse_rates(option: str, spec: str) -> Readers:
    """The readers that a spec names: `15`, `0.4:15,0.6:20` (share:rate), or one of `NAMED`. BadInput names the option.

    A rate may be a pace, `30/10@200`.
    """
    text = str(spec).strip()
    if text in NAMED:
        return NAMED[text]
    try:
        if ":" not in text:
            return _classes(text, (1.0,), [_rate(text)])
        parts = [part.split(":") for part in text.split(",")]
        if any(len(part) != 2 for part in parts):
            raise ValueError("must be written SHARE:RATE,SHARE:RATE,...")
        shares, rates = [_positive(share.strip()) for share, _ in parts], [_rate(rate.strip()) for _, rate in parts]
        total = fsum(shares)
        if abs(total - 1) > 0.005:      # 0.33:15,0.33:20,0.34:25 is what people write
            raise ValueError(f"shares must add up to 1, not {total:g}")
        return _classes(text, tuple(share / total for share in shares), rates)
    except ValueError as error:
        hint = "" if ":" in text else f"; known are a number, SHARE:RATE,SHARE:RATE,..., RATE/RATE@TOKEN/..., {', '.join(NAMED)}"
        raise BadInput(option, cells.shown(text), f"{error}{hint}") from None


def with_rates(trace: Trace, readers: Readers, seed: int = 0) -> Trace:
    """The trace, with a rate for every request that has none of its own."""
    drawn_tps, drawn_changes = readers.sample(stream(seed, Purpose.RATES), len(trace))
    lacks = np.isnan(trace.consume_tps)
    rates, changes = np.where(lacks, drawn_tps, trace.consume_tps), np.where(lacks, drawn_changes, trace.rate_changes)
    rates.setflags(write=False)
    changes.setflags(write=False)
    source = f"{trace.source} --consume-rate {readers} --seed {seed}".strip()
    return replace(trace, consume_tps=rates, rate_changes=changes, source=source)


def _classes(spec: str, shares: tuple[float, ...], rates: Sequence[float | Pace]) -> Readers:
    """Readers of these rates and paces."""
    paces = [rate if isinstance(rate, Pace) else None for rate in rates]
    return Readers(spec, shares, tuple(rate.tps if isinstance(rate, Pace) else rate for rate in rates),
                   changes=tuple(pace.changes if pace else () for pace in paces) if any(paces) else ())


def _rate(text: str) -> float | Pace:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{cells.shown(text)} {error}") from None


def _positive(text: str) -> float:
    try:
        return cells.positive(text)
    except ValueError as error:
        raise ValueError(f"{cells.shown(text)} {error}") from None
