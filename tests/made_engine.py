"""An engine that is made up, and replays on it: everyone gets a token in each step, and time passes only there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calibrate.replay_play import Clock, Played, Spoke, play
from calibrate.replay_result import IN_PROCESS, Replayed, Setup, Stock, replayed
from sim.records import Records
from traces import Trace

STEP_S = 0.125
SETTINGS = {"consume_rate": 20.0, "max_concurrency": None, "max_model_len": None, "until_s": None, "seed": 0, "workload": None}


class Made:
    """An engine in which everyone gets a token in each step, and the clock it lives by."""

    def __init__(self, fails_at: int = -1, error: BaseException | None = None, silent: bool = False,
                 step_s: float = STEP_S) -> None:
        self.step_s = step_s
        self.time_s, self.steps, self.slept_s = 1000.0, 0, 0.0
        self.left: dict[int, int] = {}
        self.told: dict[int, tuple[list[int], Mapping[str, Any]]] = {}
        self.aborted: list[int] = []
        self.widest, self.fails_at, self.error, self.silent = 0, fails_at, error, silent
        self.refused: set[int] = set()
        self.short: set[int] = set()

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.time_s, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.time_s += seconds
        self.slept_s += seconds

    def add(self, id: int, prompt: list[int], output_tokens: int, reader: Mapping[str, Any]) -> None:
        if id in self.refused:
            raise ValueError("the prompt is\ntoo long")
        self.left[id], self.told[id] = output_tokens, (prompt, reader)

    def step(self) -> list[Spoke]:
        self.steps += 1
        self.widest = max(self.widest, len(self.left))
        if self.steps == self.fails_at:
            assert self.error is not None
            raise self.error
        if self.silent:
            return []
        self.time_s += self.step_s
        spoken = []
        for id in list(self.left):
            self.left[id] -= 1
            over = not self.left[id] or id in self.short
            spoken.append(Spoke(id, 1, over))
            if over:
                del self.left[id]
        return spoken

    def abort(self, ids: list[int]) -> None:
        self.aborted += ids

    def preemptions(self) -> Mapping[int, int]:
        return {id: id for id in self.told}


def made(trace: Trace, engine: Made, pool_tokens: int | None = None, **more: Any) -> Played:
    records = Records.blank(len(trace))
    played = Played.blank(records, records.turn_away(trace, pool_tokens, None))
    play(trace, engine, played, vocab=100, consume_rate=20.0, clock=engine.clock, **more)
    return played


def result(trace: Trace, played: Played, label: str = "stock", **more: Any) -> Replayed:
    setup = Setup(label=label, policy=Stock(), engine="vLLM 0.32.0 in this process", model="tiny", token_times=IN_PROCESS,
                  link_status="none", settings=SETTINGS, **more)
    return replayed(trace, played, setup)
