"""The waist: what a policy may know (View), what it may decide (Plan), and the rules every plan keeps.

A policy is one method, `plan(view) -> Plan`. The same object schedules the model machine in `sim` and real vLLM
through `calibrate.engine`. It changes nothing it is given; it may keep private state that is a function of the
sequence of Views alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NOBODY: Ints = np.empty(0, np.int64)
NOBODY.flags.writeable = False
_ROWS: Ints = np.arange(4096)
_ROWS.flags.writeable = False


def _nobody() -> Ints:
    return NOBODY


class Residency:
    """Where a request's KV is. GPU, LOADING and EVICTING hold GPU blocks and a seat; only GPU may run."""

    NONE, GPU, HOST, LOADING, EVICTING = range(5)


HOLDS_BLOCKS: Bools = np.array([False, True, False, True, True])


class Event:
    """What can happen while a plan stands; flags, combined with `|`.

    EVICTED: an eviction that took time is over. A request whose copy was complete leaves at once, within the plan.
    """

    ARRIVAL, PREFILLED, FINISH, LANDED, EVICTED, ANY = 1, 2, 4, 8, 16, 31


class CostModel(Protocol):
    """What the policy believes things cost. Never the truth by default: a machine may be given beliefs that are off."""

    def step_s(self, tokens: float, kv_tokens: float, pairs: float, seqs: float) -> float:
        """Seconds of one engine step.

        `tokens`: computed in it; `kv_tokens`: context its decodes attend to; `pairs`: query-key pairs of its prefill
        chunks, c d + c^2/2 for a chunk c after d tokens; `seqs`: requests in it.
        """

    def load_s(self, tokens: float) -> float:
        """Seconds to bring the KV of `tokens` tokens from the host to the GPU, on an idle link."""

    def store_s(self, tokens: float) -> float:
        """Seconds to write the KV of `tokens` tokens to the host, on an idle link."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A read-only window on the engine, valid during `plan()` only: copy what you keep.

    Arrays have one row per unfinished request, in order of arrival, ids ascending.
    """

    now_s: float
    id: Ints
    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints         #: generated so far
    max_tokens: Ints            #: declared limit on the output
    computed_tokens: Ints       #: KV that exists: on the GPU, or on the host while residency is HOST
    host_tokens: Floats         #: KV that has a copy on the host (a fraction while a token is crossing)
    residency: Ints             #: one of Residency
    consumption_rate: Floats    #: tokens per second the reader takes
    readers: Callable[[], Floats]       #: computes `read_until_s`; most policies never ask
    preemptions: Ints
    moved_s: Floats             #: when residency last changed
    priority: Floats            #: class weight, 1 by default
    ttft_slo_s: Floats          #: NaN when not given
    tpot_slo_s: Floats          #: NaN when not given
    reader: Ints                #: 0: nobody reads along, the rate is a priority only
    free_blocks: int
    total_blocks: int
    host_free_blocks: int
    host_total_blocks: int
    block_size: int             #: tokens per KV block
    max_seqs: int               #: requests that may hold GPU blocks
    max_step_tokens: int
    h2d_free_s: float           #: when everything queued on the link is across
    d2h_free_s: float
    decode_steps: int           #: since the start; a step that prefills anything counts as a prefill step only
    prefill_steps: int
    decode_tokens: int          #: generated in decode steps, since the start
    prefill_tokens: int         #: prompt (and recomputed) tokens computed, since the start
    decode_s: float             #: GPU seconds spent in decode steps, since the start
    prefill_s: float
    cost: CostModel

    @property
    def read_until_s(self) -> Floats:
        """When each reader takes up the last token delivered; -inf before the first."""
        return self.readers()

    @property
    def remaining_tokens(self) -> Ints:
        """Tokens to compute before the next output token: 1 means ready to decode."""
        return self.prompt_tokens + self.output_tokens - self.computed_tokens

    @property
    def slack_s(self) -> Floats:
        """How long each reader can go on without a new token; 0 for an empty buffer.

        Rounded to a microsecond, so that engines whose clocks differ in the last bit rank alike.
        """
        slack: Floats = np.maximum(self.read_until_s - self.now_s, 0.0).round(6)
        return slack

    @property
    def buffered_tokens(self) -> Floats:
        """Tokens delivered and not read yet, as a fluid."""
        return self.slack_s * self.consumption_rate

    def rows(self, ids: Ints) -> Ints:
        """Rows of `ids`; InvalidPlan when one is unknown."""
        n = len(ids)
        if n <= len(_ROWS) and n <= len(self.id) and not np.count_nonzero(self.id[:n] != ids):
            return _ROWS[:n]                            # the earliest, as in any order of arrival
        rows: Ints = self.id.searchsorted(ids)
        if len(rows) and (rows.max() >= len(self.id) or np.count_nonzero(self.id[rows] != ids)):
            raise InvalidPlan("known ids", ids[~np.isin(ids, self.id)].tolist(), "not in the view")
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A standing order: it holds, without the policy being asked again, until an event named in `until`, an
    unfinished chunk, too few blocks (GPU, or host for `store`) for the next decode step, or its own wake-up.

    Whoever completes its prefill or lands from the host joins `decode`.
    """

    decode: Ints = field(default_factory=_nobody)       #: ids, ascending, that decode in every step; others pause
    prefill: tuple[tuple[int, int], ...] = ()           #: (id, tokens) of the next step, in this order
    offload: Ints = field(default_factory=_nobody)      #: leave the GPU; blocks are free once the host copy is complete
    drop: Ints = field(default_factory=_nobody)         #: give up all KV (of a resident or of one on the host); recompute later
    load: Ints = field(default_factory=_nobody)         #: come back from the host, in this order
    store: Ints = field(default_factory=_nobody)        #: written through to the host while resident, in this order
    forget: Ints = field(default_factory=_nobody)       #: residents whose host copy is given up
    until: int = Event.ANY
    wake_at_s: float = inf                              #: ask again then, even if nothing has happened
    wake_after_steps: int = 0                           #: ask again after so many steps; 0: no such limit


@runtime_checkable
class Policy(Protocol):
    """Decides what runs next."""

    def plan(self, view: View) -> Plan:
        """The next standing order."""


class InvalidPlan(ValueError):
    """A plan that no engine can carry out: which rule it breaks, for which requests, by which numbers."""

    def __init__(self, rule: str, requests: object, numbers: object) -> None:
        super().__init__(rule, requests, numbers)
        self.rule, self.requests, self.numbers = rule, requests, numbers

    def __str__(self) -> str:
        return " ".join(f"illegal plan: {self.rule}: requests {self.requests}, {self.numbers}".split())


def blocks_for(tokens: Ints, block_size: int) -> Ints:
    """KV blocks that hold so many tokens each."""
    return -(-tokens // block_size)


def decode_steps_that_fit(computed: Ints, free_blocks: int, block_size: int) -> int:
    """Decode steps that requests with this much KV can make together before blocks run out.

    0 if not even one; otherwise a number that surely fits and is exact when it is below `block_size`.
    """
    if not len(computed):
        return 0
    whole, rest = divmod(free_blocks, len(computed))    # in block_size steps each request takes exactly one block
    if whole:
        return whole * block_size
    taken = np.bincount(-computed % block_size, minlength=block_size).cumsum()
    return int(taken.searchsorted(rest, side="right"))


def host_blocks_held(view: View) -> Ints:
    """Host blocks each request holds while nothing is being written through, shape (n,)."""
    away = view.residency >= Residency.HOST
    kept = np.where(away, view.computed_tokens, np.ceil(view.host_tokens).astype(np.int64))
    return blocks_for(kept, view.block_size)


def check_plan(view: View, plan: Plan) -> None:
    """Raise InvalidPlan unless every engine can carry *plan* out exactly as written."""
    for orders in (plan.decode, plan.offload, plan.drop, plan.load, plan.store, plan.forget):
        if not isinstance(orders, np.ndarray) or orders.dtype.kind != "i":
            raise InvalidPlan("orders are arrays of whole numbers", "all", repr(orders))
    at, computed, left, bs = view.residency, view.computed_tokens, view.remaining_tokens, view.block_size
    ids, decode = plan.decode, view.rows(plan.decode)
    _each(ids[1:] > ids[:-1], "decode lists each request once, ids ascending", ids[1:], ids[:-1])
    _each(at[decode] == Residency.GPU, "only residents decode", ids, at[decode])
    _each(left[decode] == 1, "only the prefilled decode", ids, left[decode])
    tokens, holders = len(decode), int(np.count_nonzero(HOLDS_BLOCKS[at]))
    need, free = len(decode) - int(np.count_nonzero(computed[decode] % bs)), view.free_blocks
    named = [decode]
    if plan.prefill:
        pairs = np.array(plan.prefill)
        if pairs.dtype.kind != "i":
            raise InvalidPlan("prefill is pairs of whole numbers", "all", list(plan.prefill))
        rows = view.rows(pairs[:, 0])
        for (id, chunk), row in zip(pairs.tolist(), rows.tolist()):
            home, done = int(at[row]), int(computed[row])
            if not 0 < chunk <= left[row]:
                raise InvalidPlan("a chunk is part of what remains", [id], [chunk])
            if home > Residency.GPU:
                raise InvalidPlan("prefill needs its KV on the GPU or none", [id], [home])
            need += -(-(done + chunk) // bs) - -(-done // bs)
            holders += home == Residency.NONE
            tokens += chunk
        named.append(rows)
    if len(plan.load):
        rows = view.rows(plan.load)
        _each(at[rows] == Residency.HOST, "only KV on the host is loaded", plan.load, at[rows])
        need, holders = need + int(blocks_for(computed[rows], bs).sum()), holders + len(rows)
        named.append(rows)
    if len(plan.drop):
        rows = view.rows(plan.drop)
        settled = (at[rows] == Residency.GPU) | (at[rows] == Residency.HOST)
        _each(settled, "only KV on the GPU or the host is dropped", plan.drop, at[rows])
        here = rows[at[rows] == Residency.GPU]
        free, holders = free + int(blocks_for(computed[here], bs).sum()), holders - len(here)
        named.append(rows)
    if len(plan.offload):
        rows = view.rows(plan.offload)
        _each((at[rows] == Residency.GPU) & (computed[rows] > 0), "only residents with KV are offloaded", plan.offload, at[rows])
        written = rows[view.host_tokens[rows] >= computed[rows]]            # the others' blocks are free only once they are
        free, holders = free + int(blocks_for(computed[written], bs).sum()), holders - len(written)
        named.append(rows)
    if len(named) > 1:
        orders = np.bincount(np.concatenate(named), minlength=len(at))
        _each(orders <= 1, "one order per request", view.id, orders)
    _within(tokens, view.max_step_tokens, "tokens of a step")
    _within(holders, view.max_seqs, "requests that hold GPU blocks")
    _within(need, free, "GPU blocks")
    if len(plan.store) or len(plan.offload) or len(plan.forget):
        _check_host(view, plan)
    if plan.until & ~Event.ANY:
        raise InvalidPlan("until is flags of Event", "all", plan.until)
    numbers = isinstance(plan.wake_at_s, float | int) and isinstance(plan.wake_after_steps, int | np.integer)
    if not numbers or not plan.wake_at_s > view.now_s or plan.wake_after_steps < 0:
        wakes = f"at {plan.wake_at_s} s or after {plan.wake_after_steps} steps, now {view.now_s} s"
        raise InvalidPlan("wake in the future", "all", wakes)


def _check_host(view: View, plan: Plan) -> None:
    """Copies are made of residents that stay or are offloaded, and fit the host pool for at least one step."""
    store, offload, forget, drop = (view.rows(ids) for ids in (plan.store, plan.offload, plan.forget, plan.drop))
    at = view.residency
    coming = at == Residency.LOADING
    coming[view.rows(plan.load)] = True
    coming |= at == Residency.GPU
    _each(coming[store], "only residents, and who comes back, are written through", plan.store, at[store])
    _each(at[forget] == Residency.GPU, "only residents' copies are forgotten", plan.forget, at[forget])
    orders = np.bincount(np.concatenate((store, offload, forget, drop)), minlength=len(at))
    _each(orders <= 1, "store, offload, forget and drop exclude each other", view.id, orders)
    held = host_blocks_held(view)
    after = view.computed_tokens.copy()
    after[view.rows(plan.decode)] += 1
    if plan.prefill:
        ids, chunk = np.array(plan.prefill, np.int64).T
        after[view.rows(ids)] += chunk
    need = int((blocks_for(after[store], view.block_size) - held[store]).sum())
    need += int((blocks_for(view.computed_tokens[offload], view.block_size) - held[offload]).sum())
    _within(need, view.host_free_blocks + int(held[forget].sum()) + int(held[drop].sum()), "host blocks")


def _each(holds: Bools, rule: str, ids: Ints, numbers: npt.NDArray[np.generic]) -> None:
    if np.count_nonzero(holds) < len(holds):
        raise InvalidPlan(rule, ids[~holds].tolist(), numbers[~holds].tolist())


def _within(need: int, limit: int, rule: str) -> None:
    if need > limit:
        raise InvalidPlan(rule, "all", f"{need} of {limit}")
