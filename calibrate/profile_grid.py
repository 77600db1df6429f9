"""Which steps to measure on a machine: a grid within its limits, the most informative points first.

A point is the content of one engine step: decodes at a context, chunks of prompts after what is done of them already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from policies.api import Floats

GROWTH_TOKENS = 72      #: by which a decode's context may grow while its point is measured
DESIGNED = 12           #: points that identify the six coefficients and the host time; they come first

_FULL = 0.95            # of the pool: what the grid may ask for
_SHORTEST, _LONGEST = 128, 32_768       # contexts
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_CONTEXTS = (128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)
# Dense around 128 to 384 tokens a step: there a step turns from memory-bound to compute-bound.
_PROMPTS = (16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192, 16_384)
_PROMPT_BATCHES = (1, 2, 4, 8, 16)
_MIXED = ((8, 32, 128), (512, 2048), (128, 512, 1536))          # decodes, their context, tokens of a prompt beside them
_CHUNKED = ((256, 1024, 2048, 8192), (1024, 4096, 16_384))      # tokens of a chunk, tokens done before


@dataclass(frozen=True)
class Limits:
    """What the engine was configured to."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    num_gpu_blocks: int
    block_size: int

    @property
    def kv_tokens(self) -> int:
        return self.num_gpu_blocks * self.block_size


@dataclass(frozen=True)
class Point:
    decodes: int = 0
    context: int = 0            #: tokens before each decode
    chunks: int = 0
    chunk_tokens: int = 0
    done_tokens: int = 0        #: of a chunk's prompt, before the chunk

    @property
    def phase(self) -> str:
        if self.decodes:
            return "mixed" if self.chunks else "decode"
        return "chunked" if self.done_tokens else "prefill"

    @property
    def batch(self) -> int:
        return self.decodes or self.chunks

    @property
    def tokens_or_context(self) -> int:
        """As in tables made by others: context of the decodes, tokens of each prompt where there are none."""
        return self.context or self.chunk_tokens

    @property
    def tokens(self) -> int:
        return self.decodes + self.chunks * self.chunk_tokens

    @property
    def kv_tokens(self) -> int:
        return self.decodes * self.context

    @property
    def pairs(self) -> float:
        return self.chunks * self.chunk_tokens * (self.done_tokens + self.chunk_tokens / 2)

    @property
    def seqs(self) -> int:
        return self.decodes + self.chunks

    @property
    def key(self) -> tuple[str, int, int, int, float]:
        """Finds the point's row among the samples."""
        return self.phase, self.batch, self.tokens_or_context, self.tokens, self.pairs

    def __str__(self) -> str:
        decodes = f"{self.decodes} decodes at {self.context}" if self.decodes else ""
        after = f" after {self.done_tokens}" if self.done_tokens else ""
        chunks = f"{self.chunks} x {self.chunk_tokens} prompt tokens{after}" if self.chunks else ""
        return " + ".join(filter(None, (decodes, chunks)))


def fits(point: Point, limits: Limits) -> bool:
    """Whether it can be one step of such an engine."""
    block = limits.block_size
    blocks = point.decodes * -(-(point.context + GROWTH_TOKENS) // block)
    blocks += point.chunks * -(-(point.done_tokens + point.chunk_tokens + 1) // block)
    return (point.tokens <= limits.max_num_batched_tokens and point.seqs <= limits.max_num_seqs
            and (not point.decodes or point.context + GROWTH_TOKENS <= limits.max_model_len)
            and point.done_tokens + point.chunk_tokens < limits.max_model_len
            and point.done_tokens % block == 0 and blocks <= _FULL * limits.num_gpu_blocks)


def grid(limits: Limits) -> list[Point]:
    """Every point to measure, in order: the designed ones, cheapest first, then each time what is farthest from all before."""
    first = designed(limits)
    return first + _spread_out(first, [point for point in _everything(limits) if point not in first])


def designed(limits: Limits) -> list[Point]:
    """Up to twelve: decodes and prompts at the corners and in the middle of what the engine can do."""
    most = _largest(lambda decodes: Point(decodes, _SHORTEST), limits.max_num_seqs, limits)
    longest, wide = _longest(1, limits), most
    while wide > 1 and _longest(wide, limits) < 4 * _SHORTEST:
        wide //= 2      # the pool is full at once: fewer, so that batch and context can be told apart
    step = min(limits.max_num_batched_tokens, limits.max_model_len - 1)
    wanted = [Point(1, min(256, longest)), Point(1, longest), Point(min(16, most), min(1024, longest)),
              Point(min(64, most), 1024), Point(min(128, most), 256), Point(most, _SHORTEST), Point(wide, _longest(wide, limits)),
              *(Point(chunks=1, chunk_tokens=tokens) for tokens in (128, 512, min(2048, step // 2), step)),
              Point(chunks=4, chunk_tokens=min(limits.max_num_batched_tokens // 8, step))]
    found = [point for point in dict.fromkeys(wanted) if point.tokens and fits(point, limits)]
    if len(found) < DESIGNED:
        found += _spread_out(found, [point for point in _everything(limits) if point not in found])[:DESIGNED - len(found)]
    return sorted(found, key=lambda point: point.kv_tokens + point.pairs / 1000 + point.tokens)


def _everything(limits: Limits) -> list[Point]:
    most, longest = min(limits.max_num_seqs, limits.max_num_batched_tokens), _longest(1, limits)
    batches, contexts = {*_BATCHES, most}, {*_CONTEXTS, longest}
    step = min(limits.max_num_batched_tokens, limits.max_model_len - 1)
    points = [Point(decodes, context) for decodes in sorted(batches) for context in sorted(contexts) if context >= 1]
    points += [Point(chunks=batch, chunk_tokens=tokens) for batch in _PROMPT_BATCHES for tokens in sorted({*_PROMPTS, step})]
    points += [Point(*decodes, 1, tokens) for decodes in _product(*_MIXED[:2]) for tokens in _MIXED[2]]
    points += [Point(chunks=1, chunk_tokens=tokens, done_tokens=done) for tokens, done in _product(*_CHUNKED)]
    return [point for point in points if fits(point, limits)]


def _product(a: Iterable[int], b: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(x, y) for x in a for y in b]


def _longest(decodes: int, limits: Limits) -> int:
    """Longest context of so many decodes; 0 if there is none."""
    return _largest(lambda context: Point(decodes, context), min(_LONGEST, limits.max_model_len), limits)


def _largest(point: Callable[[int], Point], most: int, limits: Limits) -> int:
    """The largest number up to `most` with which the point fits, 0 if none does; to be found by halving."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(point(middle), limits) else (low, middle - 1)
    return low


def _spread_out(placed: list[Point], rest: list[Point]) -> list[Point]:
    """`rest`, each next the farthest from everything before it, in the logarithms of what a step's time depends on."""
    if not rest:
        return []
    all_features = _features([*placed, *rest])
    all_features /= np.maximum(np.ptp(all_features, axis=0), 1e-9)
    before, features = all_features[:len(placed)], all_features[len(placed):]
    far = np.full(len(rest), math.inf)
    for row in before:
        far = np.minimum(far, np.square(features - row).sum(axis=1))
    order = []
    for _ in rest:
        next_ = int(far.argmax())
        order.append(rest[next_])
        far = np.minimum(far, np.square(features - features[next_]).sum(axis=1))
        far[next_] = -1.0
    return order


def _features(points: list[Point]) -> Floats:
    """Shape (points, 5): what the model's terms count, and what chunks read of earlier ones."""
    return np.log1p([[point.tokens, point.kv_tokens, point.pairs, point.seqs, point.chunks * point.done_tokens]
                     for point in points])
