"""TokenFlow (EuroSys 2026): preempt readers whose buffers are full, serve those whose are not, move KV in the background.

Every `interval_s`, and at once when memory runs out, the working set is extended and rebalanced (a *tick*); in between,
newcomers and returners take the room that comes free. Prompts go before decodes, as in SGLang, where every reader's buffer
covers them; else they ride in decode steps, in chunks. Fields are the paper's parameters, its ablations, and our resolution
of what it leaves open; [R] marks the latter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

import numpy as np

from .api import Bools, Event, Floats, Ints, Plan, View
from .averages import Averages
from .balance import fill, marginal_utility, printed_utility, token_value
from .scene import Scene, ascending
from .working_set import paper_limit, peak_tokens

_SURE = 0.9     # of the time until a reader runs dry, prompts beside decodes take so much: what they take is an estimate


@dataclass
class TokenFlow:
    interval_s: float = 1.0             #: reschedule interval dt; the paper sweeps 0.5 to 1.5 s [R]
    conservativeness: float = 2.0       #: mu: a victim's buffer lasts at least mu (tau_evict + tau_load + tau_schedule)
    gamma: float = 100.0                #: weight of an empty buffer against tokens gained, in tokens [R]
    utility: Literal["marginal", "printed", "slack"] = "marginal"   #: the printed one ranks empty buffers last [R]
    stickiness: float = 0.25            #: of an interval's tokens; so much more is a resident worth (marginal utility) [R]
    critical_s: float | None = None     #: a buffer shorter than this may displace anyone; None: tau_load + dt [R]
    working_set: Literal["memory", "paper"] = "memory"      #: bound on admission: tokens in memory, or Eq. 4 and 5 [R]
    overcommit: float = 0.95            #: kappa: share of GPU + host memory that the admitted may come to hold, estimated [R]
    ramp: float = 0.5                   #: lambda of Eq. 5 (working_set="paper")
    fill: float = 0.95                  #: share of GPU memory that balancing fills; the rest is for growth [R]
    rate_bound: bool = True             #: Eq. 6: the sum of rates stays below what the engine can generate
    rate_margin: float = 0.95           #: Gamma is multiplied by this (1 in the paper): at Gamma itself nobody catches up [R]
    fallback: Literal["hold", "fcfs"] = "hold"      #: beyond Gamma: admit nobody, or also run in order of arrival (the paper)
    offload: bool = True                #: ablation: False drops the KV of victims and recomputes it
    write_through: bool = True          #: ablation: False writes everything at preemption
    overlap: bool = True                #: ablation: False loads nobody while anyone is being evicted, and the reverse
    load_or_recompute: bool = True      #: recompute where that is faster than loading; False always loads
    io_share: float = 0.5               #: share of an interval that loads which need a victim may take on the link [R]
    io_backoff: bool = False            #: double the interval while the link's backlog exceeds it (paper, section 8)
    swap_passes: int = 5                #: local search after the greedy fill [R: the public code's constant]
    max_prefill_tokens: int = 16_384    #: of one prefill batch, as SGLang's
    prefill_guard_s: float = 0.1        #: a prefill ends so long before the first reader runs dry [R]
    ride_share: float = 1.0             #: decode steps that prompts may add to one, whatever the buffers; at least a token [R]

    engine_step_tokens = 1 << 20        #: the engine's step limit when the user sets none: the policy bounds its batches itself

    _learnt: Averages = field(init=False, repr=False, compare=False, default_factory=Averages)
    _next_tick_s: float = field(init=False, repr=False, compare=False, default=0.0)
    _last_tick_s: float = field(init=False, repr=False, compare=False, default=-inf)
    _coming: list[int] = field(init=False, repr=False, compare=False, default_factory=list)     # ids that room was made for
    _max_rate: float = field(init=False, repr=False, compare=False, default=inf)                # Gamma
    _over_ticks: int = field(init=False, repr=False, compare=False, default=0)
    _overloaded: bool = field(init=False, repr=False, compare=False, default=False)
    _mean_demand: float = field(init=False, repr=False, compare=False, default=0.0)             # beta of Eq. 4

    def __post_init__(self) -> None:
        positive = ("interval_s", "fill", "overcommit", "rate_margin", "max_prefill_tokens")
        not_negative = ("conservativeness", "gamma", "stickiness", "ramp", "io_share", "swap_passes", "prefill_guard_s",
                        "ride_share")
        for name in (*positive, *not_negative):
            value = getattr(self, name)
            if not (0 <= value < inf) or (name in positive and not value):
                least = "above zero" if name in positive else "not below zero"
                raise ValueError(f"{name}={value}: must be a finite number {least}")
        if self.fill > 1 or self.ramp > 1 or self.io_share > 1:
            raise ValueError(f"fill={self.fill}, ramp={self.ramp}, io_share={self.io_share}: are shares, at most 1")
        for name, known in (("utility", ("marginal", "printed", "slack")), ("working_set", ("memory", "paper")),
                            ("fallback", ("hold", "fcfs"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)}: must be one of {', '.join(known)}")

    @classmethod
    def paper(cls, **fields: Any) -> TokenFlow:
        """The paper's text wherever it states something (policy `tokenflow-paper`)."""
        stated: dict[str, Any] = {"working_set": "paper", "rate_margin": 1.0, "fallback": "fcfs", "utility": "printed"}
        return cls(**(stated | fields))

    def plan(self, view: View) -> Plan:
        self._learnt.observe(view)
        scene = Scene(view)
        absent = len(scene.waiting) + len(scene.away) + len(scene.dropped)
        rides = False
        if scene.short > 0 or absent or len(scene.midway):
            idle = not len(scene.ready) and not len(scene.midway) and not scene.loading and not scene.evicting
            ticks = scene.short > 0 or view.now_s >= self._next_tick_s or idle
            if ticks:
                self._open_interval(scene)
            newcomers = self._admit(scene, displace=ticks)
            if ticks and not self._calm(scene):
                self._rebalance(scene, newcomers)
            rides = self._bring(scene, newcomers)
        absent -= len(scene.load) + len({row for row, _ in scene.prefill} - set(scene.midway.tolist()))
        waits = absent > 0 or len(scene.midway) or scene.prefill or scene.leave or scene.evicting
        until = Event.ANY if waits else Event.ARRIVAL | Event.PREFILLED
        if self.overlap:
            until &= ~Event.LANDED
        wakes = absent > 0 or bool(scene.give_up)
        return scene.plan(store=self.write_through and self.offload, until=until, mixed=rides,
                          wake_at_s=self._wake(view, scene) if wakes else inf)

    def _wake(self, view: View, scene: Scene) -> float:
        if scene.give_up:                               # their recomputation is the next plan
            return float(np.nextafter(view.now_s, inf))
        return max(self._next_tick_s, float(np.nextafter(view.now_s, inf)))

    # ---- costs, as believed

    def _safe_s(self, scene: Scene) -> Floats:
        """mu (tau_evict + tau_load + tau_schedule), or with recomputation without offload: who has less to read is no victim."""
        view = scene.view
        away_s = scene.evict_s + scene.load_s if self.offload else view.computed_tokens * self._learnt.prefill_token_s(view)
        return np.asarray(self.conservativeness * (away_s + self.interval_s), np.float64)

    # ---- bounds on admission

    def _open_interval(self, scene: Scene) -> None:
        """A tick: bring the averages up to date, see whether the admitted rates can be met."""
        view, learnt = scene.view, self._learnt
        if not self._mean_demand:
            self._mean_demand = float((view.prompt_tokens + view.max_tokens).mean())
        learnt.close_interval(view, self.interval_s)
        pool = self.fill * view.total_blocks * view.block_size
        seqs = max(min(view.max_seqs, int(pool / learnt.context_tokens)), 1)
        self._max_rate = self.rate_margin * (1 - learnt.prefill_share) * seqs / view.cost.step_s(seqs, pool, 0.0, seqs)
        rates = float(view.consumption_rate[scene.admitted].sum())
        self._over_ticks = self._over_ticks + 1 if rates > self._max_rate else 0
        if self._over_ticks >= 2:
            self._overloaded = self.rate_bound
        elif rates < 0.9 * self._max_rate:
            self._overloaded = False
        backlog_s = max(view.h2d_free_s, view.d2h_free_s) - view.now_s
        self._last_tick_s = view.now_s
        self._next_tick_s = view.now_s + self.interval_s * (2 if self.io_backoff and backlog_s > self.interval_s else 1)

    def _admit(self, scene: Scene, displace: bool) -> list[int]:
        """Newcomers within both bounds for whom there is room; at a tick also those for whom victims make it."""
        if not len(scene.waiting) or self._overloaded:
            return []
        view, first, reserve = scene.view, int(scene.waiting[0]), len(scene.ready) + len(scene.midway)
        if not displace and view.id[first] not in self._coming and not scene.fits(scene.whole_blocks(first), reserve):
            return []                                           # whoever waits first keeps the others waiting
        members = scene.admitted.nonzero()[0]
        demand, count = view.prompt_tokens + view.max_tokens, len(members)
        tokens, rates = int(demand[members].sum()), float(view.consumption_rate[members].sum())
        pool, most = self.overcommit * (self.fill * view.total_blocks + view.host_total_blocks) * view.block_size, inf
        if self.working_set == "paper":
            pool, most = inf, paper_limit(view, self._mean_demand, len(scene.ready) + len(scene.midway), self.ramp)
        coming = set(scene.rows_left(self._coming).tolist())
        promised = sum(scene.whole_blocks(row) for row in coming)
        victims: Iterable[int] | None = None
        newcomers: list[int] = []
        free, seats = scene.free - promised, scene.seats - len(coming)
        for row in scene.waiting.tolist():
            if row in coming:
                tokens, rates, count = tokens + int(demand[row]), rates + float(view.consumption_rate[row]), count + 1
                newcomers.append(row)
                continue
            need = scene.whole_blocks(row)
            fits = seats > 0 and free >= need + reserve
            if not (fits or displace):
                break
            if count and self.rate_bound and rates + view.consumption_rate[row] > self._max_rate:
                break
            if count and (count + 1 > most or (tokens + demand[row] > pool
                          and peak_tokens(view, np.append(members, [*newcomers, row])) > pool)):
                break
            if not fits:
                if victims is None:
                    victims = iter(self._safe_victims(scene))
                marked: list[int] = []
                gain = 0
                for victim in victims:
                    marked.append(victim)
                    gain += int(scene.blocks[victim])
                    if free + gain >= need + reserve and seats + len(marked) > 0:
                        break
                if free + gain < need + reserve or seats + len(marked) <= 0:
                    break
                if not self._preempt(scene, marked):
                    break
                free, seats = free + gain, seats + len(marked)
                self._coming.append(int(view.id[row]))
            tokens, rates, count = tokens + int(demand[row]), rates + float(view.consumption_rate[row]), count + 1
            free, seats, reserve = free - need, seats - 1, reserve + 1
            newcomers.append(row)
        return newcomers

    # ---- preempting

    def _safe_victims(self, scene: Scene) -> list[int]:
        """Residents whose buffers outlast a round trip by far, fullest first; none younger than an interval."""
        view = scene.view
        rows, safe_s = scene.staying(scene.ready), self._safe_s(scene)
        rows = rows[(scene.slack_s[rows] >= safe_s[rows]) & (view.now_s - view.moved_s[rows] >= self.interval_s)]
        return ascending(rows, -scene.slack_s).tolist()     # type: ignore[no-any-return]

    def _preempt(self, scene: Scene, rows: list[int]) -> bool:
        """Order residents off the GPU; none of them, and False, when one has to stay: the host is full, or loads must land."""
        if not self.offload:
            for row in rows:
                scene.drop(row)
            return True
        if not self.overlap and scene.loading:
            return False
        if scene.host_room < scene.leaving_blocks + sum(scene.blocks[rows].tolist()):
            return False
        for row in rows:
            scene.evict(row)
        return True

    # ---- balancing

    def _calm(self, scene: Scene) -> bool:
        """Nobody waits to be admitted, nobody's buffer is critical, memory suffices: the absent come back as room comes free."""
        if len(scene.waiting) or scene.short > 0:
            return False
        members = scene.admitted.nonzero()[0]
        return bool((scene.slack_s[members] >= self._critical_s(scene, members)).all())

    def _critical_s(self, scene: Scene, rows: Ints) -> Floats:
        """T_critical: a buffer that lasts no longer may displace anyone."""
        if self.critical_s is not None:
            return np.full(len(rows), self.critical_s)
        return scene.load_s[rows] + self.interval_s

    def _rebalance(self, scene: Scene, newcomers: list[int]) -> None:
        """Steps 2 and 3: rank the working set, and let the chosen absent displace the residents not chosen."""
        utility = self._utilities(scene)
        residents = scene.staying(scene.ready)
        if len(scene.away) + len(scene.dropped):
            chosen = self._chosen(scene, utility, residents, newcomers)
            self._displace(scene, utility, residents[~chosen[residents]], chosen)
        if scene.short > 0:
            self._make_room(scene, utility)

    def _utilities(self, scene: Scene) -> Floats:
        """U of every request, shape (n,); only those of the working set are used."""
        view = scene.view
        if self.utility == "slack":
            return -scene.slack_s
        absent = np.zeros(len(view.id), np.bool_)
        absent[scene.away] = absent[scene.dropped] = True
        recompute_s = (view.prompt_tokens + view.output_tokens) * self._learnt.prefill_token_s(view)
        overhead_s = np.where(absent, np.minimum(scene.evict_s + scene.load_s, recompute_s), 0.0)
        buffered = scene.slack_s * view.consumption_rate
        value = token_value(buffered, view.max_tokens)
        seqs = max(len(scene.ready), 1)
        speed = 1.0 / view.cost.step_s(seqs, float(view.computed_tokens[scene.ready].sum()), 0.0, seqs)
        if self.utility == "printed":
            return printed_utility(value, speed, self.interval_s, overhead_s, buffered, self.gamma)
        worth = marginal_utility(value, speed, self.interval_s, overhead_s, scene.slack_s, scene.load_s, self.gamma)
        worth[scene.ready] += self.stickiness * speed * self.interval_s
        return worth

    def _chosen(self, scene: Scene, utility: Floats, residents: Ints, newcomers: list[int]) -> Bools:
        """Marks of who should hold GPU memory for the next interval, shape (n,)."""
        view = scene.view
        absent = np.concatenate((scene.away, scene.dropped))
        young = view.now_s - view.moved_s[residents] < self.interval_s
        fixed = np.concatenate((residents[young], scene.staying(scene.midway)))
        blocks = scene.blocks.copy()
        for rows in (scene.dropped, scene.midway):
            blocks[rows] = scene.whole_blocks_of(rows)
        blocks[scene.ready] += scene.takes[scene.ready]
        blocks[scene.away] += scene.takes[scene.away]
        rest = np.concatenate((residents[~young], absent))
        if self._overloaded and self.fallback == "fcfs":
            ranked = np.sort(rest)                              # rows are in order of arrival
        else:
            ranked = rest[np.lexsort((rest, -view.consumption_rate[rest], -utility[rest]))]
        room = int(self.fill * view.total_blocks) - int(blocks[fixed].sum()) - sum(scene.whole_blocks(row) for row in newcomers)
        room -= scene.landing_blocks + scene.evicting_blocks
        seats = view.max_seqs - len(fixed) - scene.loading - scene.evicting - len(newcomers)
        chosen = np.zeros(len(view.id), np.bool_)
        chosen[fixed] = True
        chosen[ranked[fill(ranked, utility, blocks, room, seats, self.swap_passes)]] = True
        if not chosen.any() and len(ranked):
            chosen[ranked[0]] = True                            # larger than the share to fill, alone on the GPU
        return chosen

    def _displace(self, scene: Scene, utility: Floats, spare: Ints, chosen: Bools) -> None:
        """Each chosen absent one takes free blocks, or as many residents not chosen as it still needs."""
        view = scene.view
        absent = np.concatenate((scene.away, scene.dropped))
        wanted = absent[chosen[absent]]
        if not len(wanted):
            return
        wanted = ascending(wanted, -utility)
        needs, tokens = scene.whole_blocks_of(wanted).tolist(), view.computed_tokens[wanted].tolist()
        urgent = (view.output_tokens[wanted] > 0) & (scene.slack_s[wanted] < self._critical_s(scene, wanted))
        spare_rows = ascending(spare, utility)
        safe = scene.slack_s[spare_rows] >= self._safe_s(scene)[spare_rows]
        spares = list(zip(spare_rows.tolist(), scene.blocks[spare_rows].tolist(), safe.tolist()))
        io_tokens = self.io_share * self.interval_s / max(view.cost.load_s(1.0), 1e-12)
        io_tokens -= max(view.h2d_free_s - view.now_s, 0.0) / max(view.cost.load_s(1.0), 1e-12)
        free, seats, coming = scene.free, scene.seats, []
        for row, need, kv_tokens, is_urgent in zip(wanted.tolist(), needs, tokens, urgent.tolist()):
            marked: list[int] = []
            gain = 0
            if free < need or seats <= 0:
                if not kv_tokens or io_tokens < kv_tokens:
                    continue
                for victim, blocks, may in spares:
                    if is_urgent or may:
                        marked.append(victim)
                        gain += blocks
                        if free + gain >= need and seats + len(marked) > 0:
                            break
                if free + gain < need or seats + len(marked) <= 0:
                    continue
                if not self._preempt(scene, marked):
                    continue
                spares = [spare for spare in spares if spare[0] not in marked]
                io_tokens -= kv_tokens
            free, seats = free + gain - need, seats + len(marked) - 1
            coming.append(row)
        ids = set(self._coming)
        order = sorted(coming, key=lambda row: (scene.slack_s[row], row))
        self._coming = [int(view.id[row]) for row in order if int(view.id[row]) not in ids] + self._coming

    def _make_room(self, scene: Scene, utility: Floats) -> None:
        """The next decode step does not fit: who is worth least leaves, one interval's growth at a time."""
        view = scene.view
        going = sum(int(scene.blocks[row]) for row in scene.leave + scene.give_up)
        target = scene.short + len(scene.ready)
        rows = ascending(scene.staying(scene.ready), utility)
        young = view.now_s - view.moved_s[rows] < self.interval_s
        order = np.concatenate((rows[~young], rows[young], scene.midway[::-1])).tolist()
        going += scene.evicting_blocks
        while going < target and len(order) > 1:
            row = order.pop(0)
            if scene.left[row] > 1:
                scene.drop(row)
            elif not self._preempt(scene, [row]):
                if scene.loading and not self.overlap:
                    return                                      # a load lands first; until then the fullest pause
                scene.drop(row)
            going += int(scene.blocks[row])

    # ---- bringing requests onto the GPU

    def _bring(self, scene: Scene, newcomers: list[int]) -> bool:
        """Loads, then the prefill batch, into the room there is now. Whether it rides in a decode step."""
        view = scene.view
        blocked = not self.overlap and (scene.evicting > 0 or len(scene.leave) > 0)
        slower_to_load = view.cost.load_s(1.0) > self._learnt.prefill_token_s(view)     # of the same tokens
        coming = scene.rows_left(self._coming)
        chosen = set(coming.tolist())
        calm = not len(scene.waiting) or len(newcomers) == len(scene.waiting)
        returners = [row for row in coming.tolist() if scene.admitted[row]]
        if calm or not scene.evicting:
            rest = np.concatenate((scene.away, scene.dropped))
            returners += [row for row in ascending(rest, scene.slack_s).tolist() if row not in chosen]
        again: list[int] = []
        reserve = len(scene.ready)
        promised = [scene.whole_blocks(row) for row in coming.tolist() if not scene.admitted[row]]      # room made for newcomers
        for row in returners:
            need, spared = scene.whole_blocks(row), 0 if row in chosen else reserve + sum(promised)
            if row not in chosen and scene.seats <= len(promised):
                break
            if view.computed_tokens[row] == 0:
                if scene.fits(need, spared):
                    scene.take(need)
                    again.append(row)
                continue
            if blocked:
                continue
            if self.load_or_recompute and slower_to_load:
                scene.drop(row)
                continue
            if not scene.fits(need, spared):
                break
            scene.take(need)
            scene.load.append(row)
        new: list[int] = []
        for row in newcomers:
            need = scene.whole_blocks(row)
            if not scene.fits(need, reserve if row not in chosen else 0):
                break
            scene.take(need)
            new.append(row)
        rides = self._batch(scene, new, again)
        came = {*scene.load, *(row for row, _ in scene.prefill)}
        self._coming = [id for id, row in zip(view.id[coming].tolist(), coming.tolist()) if row not in came]
        return rides

    def _batch(self, scene: Scene, new: list[int], again: list[int]) -> bool:
        """The prefill batch: newcomers, else recomputations, alone as long as the readers' buffers last, or beside decodes."""
        view, learnt = scene.view, self._learnt
        rows = scene.staying(scene.midway).tolist() + (new or again)
        learnt.beside_s = 0.0
        if not rows:
            return False
        ready = scene.staying(scene.ready)
        token_s = learnt.prefill_token_s(view)
        limit = min(self.max_prefill_tokens, view.max_step_tokens)
        tokens = [int(scene.left[row]) for row in rows]
        if len(ready):
            slack_s = scene.slack_s[ready]
            covered = min(limit, int(max(float(slack_s.min()) - self.prefill_guard_s, 0.0) / token_s))
            if covered < tokens[0]:
                decoders = scene.decoders()
                decode_s = learnt.decode_step_s(view, decoders)
                dry_s = float((slack_s + 1 / view.consumption_rate[ready]).min())
                chunk = int(max(_SURE * (dry_s - decode_s), self.ride_share * decode_s) / token_s)
                scene.prefill_up_to(rows, min(max(chunk, 1), limit, view.max_step_tokens - len(decoders)), whole=False)
                learnt.beside_s = decode_s
                return True
            limit = covered
        scene.prefill_up_to(rows, limit, whole=limit >= tokens[0])
        return False
