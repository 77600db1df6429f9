"""What an engine does, as events: its steps, each request's places, copies over the links, preemptions.

A Watch that keeps no more than one open slice per request. Between two looks a request moves once by plan, at the
last decision, and once more where its copy is across by then; it says when (`moved_s`). Who computes is known by run.
"""

from __future__ import annotations

import numpy as np

from policies.api import Floats, Ints, Plan, Residency, View

from .engine import Engine
from .run import Run
from .trace_json import TraceWriter, Track

ENGINE, LINKS, REQUESTS, READERS = "engine", "links", "requests", "readers"
STEPS, PREEMPTIONS = Track(ENGINE, "steps", 0), Track(ENGINE, "preemptions", 1)
LOADS, STORES, WRITES = Track(LINKS, "host to GPU", 0), Track(LINKS, "GPU to host", 1), Track(LINKS, "GPU to host, background", 2)

#: places of a request
ABSENT, QUEUED, PAUSED, ON_HOST, LOADING, EVICTING, PREFILL, RUNNING = range(8)
NAMES = ("", "queued", "paused", "on host", "loading", "evicting", "prefill", "running")

_PLACE = np.empty(5, np.int64)      # by residency, of who does not compute
_PLACE[[Residency.NONE, Residency.GPU, Residency.HOST, Residency.LOADING, Residency.EVICTING]] = (
    QUEUED, PAUSED, ON_HOST, LOADING, EVICTING)


def request_track(id: int) -> Track:
    return Track(REQUESTS, f"request {id}", id)


class EventWatch:
    def __init__(self, out: TraceWriter, requests: int) -> None:
        self._out = out
        self._place = np.zeros(requests, np.int64)          # of each request, by id
        self._since_s = np.zeros(requests)
        self._tokens, self._computed = np.zeros(requests, np.int64), np.zeros(requests, np.int64)     # in its open slice
        self._here: Ints = np.empty(0, np.int64)            # ids at the last look
        self._ran_s = 0.0                                   # end of the last run
        self._written = 0.0
        self._copies: dict[Track, dict[int, tuple[float, int]]] = {LOADS: {}, STORES: {}}     # when begun, tokens; by id
        self._across_s = {LOADS: 0.0, STORES: 0.0}
        self._engine: Engine | None = None

    def decided(self, engine: Engine, view: View, plan: Plan) -> None:
        self._look(engine)
        now_s, out, rows = engine.env.now, self._out, view.rows
        for id, row in zip(plan.offload.tolist(), rows(plan.offload).tolist()):
            kept = int(view.computed_tokens[row])
            out.instant(PREEMPTIONS, "to host", now_s, {"request": id, "kv_tokens": kept})
            unwritten = float(view.computed_tokens[row] - view.host_tokens[row])
            if unwritten > 0:
                self._copies[STORES][id] = now_s, round(unwritten)
        for id, row in zip(plan.drop.tolist(), rows(plan.drop).tolist()):
            resident = view.residency[row] == Residency.GPU
            out.instant(PREEMPTIONS, "dropped" if resident else "host copy given up", now_s,
                        {"request": id, "kv_tokens": int(view.computed_tokens[row])})
        for id, row in zip(plan.load.tolist(), rows(plan.load).tolist()):
            self._copies[LOADS][id] = now_s, int(view.computed_tokens[row])
        self._count(engine, now_s)

    def ran(self, engine: Engine, run: Run) -> None:
        self._look(engine)
        ids, start_s, end_s = engine.requests.id, run.start_s, float(run.ends_s[-1])
        if start_s > self._ran_s:       # nobody computed in between
            self._rest()
        computing = ids[run.rows]
        idle = np.setdiff1d(self._here[self._place[self._here] >= PREFILL], computing, assume_unique=True)
        self._move(idle, PAUSED, start_s)
        for rows, place in ((run.decoding, RUNNING), (run.prefilling, PREFILL)):
            self._move(ids[rows][self._place[ids[rows]] != place], place, start_s)
        self._tokens[ids[run.speakers]] += len(run.ends_s)
        self._computed[ids[run.prefilling]] += run.chunk
        self._steps(run)
        self._wrote(engine, start_s, end_s)
        self._count(engine, start_s)
        self._ran_s = end_s

    def close(self) -> None:
        """The simulation is over: what is open ends, where it was stopped or with the last run."""
        engine = self._engine
        if engine is None:
            return
        self._look(engine)
        end_s = engine.env.now
        self._move(self._here, ABSENT, end_s)
        self._wrote(engine, self._ran_s, end_s)         # in a step that was cut
        for track, copies in self._copies.items():
            for id, (begun_s, tokens) in copies.items():
                self._copied(track, id, begun_s, tokens, end_s, {"under way": True})
        self._count(engine, end_s)

    def _look(self, engine: Engine) -> None:
        """Who came, left or moved since the last look."""
        self._engine, q = engine, engine.requests
        ids, residency, moved_s = q.id[: q.n].copy(), q.residency[: q.n], q.moved_s[: q.n]
        gone = np.setdiff1d(self._here, ids, assume_unique=True)
        self._move(gone, ABSENT, self._ran_s)
        self._here, place, now = ids, _PLACE[residency], self._place[ids]
        changed = ((place != now) & ~((residency == Residency.GPU) & (now >= PREFILL))).nonzero()[0]
        changed = changed[moved_s[changed].argsort(kind="stable")]
        for row in changed.tolist():
            id, at_s = int(ids[row]), float(moved_s[row])
            for track, landed, on_way in ((LOADS, Residency.GPU, LOADING), (STORES, Residency.HOST, EVICTING)):
                if residency[row] == landed and id in self._copies[track]:
                    begun_s, tokens = self._copies[track].pop(id)
                    if self._place[id] != on_way:       # begun and across since the last look
                        self._move(ids[row : row + 1], on_way, begun_s)
                    self._copied(track, id, begun_s, tokens, at_s)
            self._move(ids[row : row + 1], int(place[row]), at_s)

    def _copied(self, track: Track, id: int, begun_s: float, tokens: int, at_s: float, more: dict[str, bool] | None = None) -> None:
        start_s = min(max(begun_s, self._across_s[track]), at_s)        # one after the other
        self._out.slice(track, f"request {id}", start_s, at_s, {"request": id, "tokens": tokens, **(more or {})}, brief=True)
        self._across_s[track] = at_s

    def _wrote(self, engine: Engine, start_s: float, end_s: float) -> None:
        """What was written through since the last time."""
        written, self._written = engine.write_through.tokens - self._written, engine.write_through.tokens
        if written > 0:
            self._out.slice(WRITES, "write-through", start_s, end_s, {"tokens": round(written, 3)})

    def _rest(self) -> None:
        """Whoever computed has paused since the last run."""
        self._move(self._here[self._place[self._here] >= PREFILL], PAUSED, self._ran_s)

    def _move(self, ids: Ints, place: int, at_s: float) -> None:
        """To another place: what it did before is over."""
        for id in ids.tolist():
            before, since_s = int(self._place[id]), float(self._since_s[id])
            if before >= PREFILL and at_s > self._ran_s:
                self._tell(id, before, since_s, self._ran_s)
                before, since_s = PAUSED, self._ran_s
            self._tell(id, before, since_s, at_s)
            self._place[id], self._since_s[id] = place, at_s

    def _tell(self, id: int, place: int, start_s: float, end_s: float) -> None:
        if place == ABSENT:
            return
        said = {"tokens": int(self._tokens[id])} if place >= PREFILL else {}
        if place == PREFILL:
            said["computed_tokens"] = int(self._computed[id])
        self._tokens[id] = self._computed[id] = 0
        self._out.slice(request_track(id), NAMES[place], start_s, end_s, said)

    def _steps(self, run: Run) -> None:
        decoding, prefilling, out = len(run.decoding), len(run.prefilling), self._out
        name = "decode" if not prefilling else "prefill and decode" if decoding else "prefill"
        said = {"decoding": decoding}
        if prefilling:
            said |= {"prefilling": prefilling, "prompt_tokens": int(run.chunk.sum())}
        start_s = run.start_s
        for end_s in run.ends_s.tolist():
            out.slice(STEPS, name, start_s, end_s, said)
            start_s = end_s

    def _count(self, engine: Engine, at_s: float) -> None:
        q, kv, out, n = engine.requests, engine.kv, self._out, engine.requests.n
        at = np.bincount(self._place[self._here], minlength=len(NAMES))
        for name, places in (("queued", (QUEUED,)), ("running", (PREFILL, RUNNING)), ("paused", (PAUSED,)),
                             ("away", (ON_HOST, LOADING, EVICTING))):
            out.counter(ENGINE, name, at_s, int(sum(at[place] for place in places)))
        out.counter(ENGINE, "GPU blocks", at_s, int(kv.total - kv.free))
        out.counter(ENGINE, "host blocks", at_s, int(kv.host_total - kv.host_free))
        unread = np.maximum(q.read_until_s[:n] - at_s, 0.0) * q.consumption_rate[:n] * (q.reader[:n] > 0)
        out.counter(READERS, "unread tokens", at_s, round(float(unread.sum())))


def read_out(out: TraceWriter, id: int, sent_s: float, times_s: Floats, along: tuple[Floats, Floats]) -> None:
    """How a reader fared: waiting for the first token, reading, stalling. `along`: as `Result.read_along`."""
    track, (taken_s, stalls) = Track(READERS, f"reader {id}", id), along
    if not len(times_s):
        return
    at_s = float(times_s[0])
    out.slice(track, "waits", sent_s, at_s, {})
    for start_s, end_s in stalls.tolist():
        out.slice(track, "reads", at_s, start_s, {})
        out.slice(track, "stall", start_s, end_s, {})
        at_s = end_s
    out.slice(track, "reads", at_s, float(taken_s[-1]), {})
